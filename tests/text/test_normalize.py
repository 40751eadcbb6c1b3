"""The front end: golden rows of the official one, and what it fails on."""

import pytest

from cosyjax.convert.parity import runner
from cosyjax.convert.parity.fixture import load_fixture
from cosyjax.convert.parity.text import text_frontend
from cosyjax.text.normalize import (
    load_spoken_forms,
    normalize,
    normalize_and_split,
    remove_blanks,
    spell_out_numbers,
)


def test_every_golden_row_is_equal(golden):
    fixture = load_fixture(golden / "text_frontend.json", runner.manifest_keys)
    rows = [runner.compare(fixture.name, check) for check in text_frontend(fixture)]
    assert len(rows) > 150
    assert not [row.tensor for row in rows if row.verdict == "FAIL"]
    assert all("official code raises" in row.note for row in rows if row.verdict == "skip")


def test_a_wrong_string_fails_the_golden_row(golden):
    fixture = load_fixture(golden / "text_frontend.json", runner.manifest_keys)
    fixture.meta["rows"][0]["normalize_split0"] += "x"
    rows = [runner.compare(fixture.name, check) for check in text_frontend(fixture)]
    assert [row.tensor for row in rows if row.verdict == "FAIL"] == ["row0.normalize_split0"]


def test_prepared_text_and_disabled_normalisation_are_untouched():
    prepared = "<|en|> 12 ² "
    assert normalize(prepared) == prepared
    assert normalize_and_split(prepared, str.split) == [prepared]
    assert normalize_and_split(" 12. x. ", str.split, enabled=False) == [" 12. x. "]


def test_a_generator_passes_untouched():
    pieces = (piece for piece in ("a", "b"))
    assert normalize_and_split(pieces, str.split) == [pieces]


@pytest.mark.parametrize("text", ["   ", "\n\t", "？！", "...", "$+"])
def test_nothing_to_say_gives_no_piece(text):
    assert normalize_and_split(text, str.split) == []


def test_numbers_beyond_words_are_read_digit_by_digit():
    assert spell_out_numbers("7" * 37) == ", ".join(["seven"] * 37)
    assert len(spell_out_numbers("1" * 50_000)) == len(", ".join(["one"] * 50_000))


def test_a_blank_at_the_end_is_dropped():
    assert remove_blanks("好 a b ") == "好a b"


def test_of_several_blanks_none_is_kept():
    assert remove_blanks("a  b c") == "ab c"


def test_a_dash_between_blanks_is_a_comma_in_chinese():
    assert normalize("好 a - b 好") == "好a，b好"


def test_spoken_forms_come_before_the_other_steps():
    def forms(text, language):
        return text.replace("3", {"zh": "三", "en": "three"}[language])

    assert normalize("我有 3 个", forms) == "我有三个"
    assert normalize("I have 3.", forms) == "I have three."


def test_wetext_writes_out_chinese_numbers_and_keeps_erhua():
    pytest.importorskip("wetext")
    forms = load_spoken_forms()
    assert forms is not None
    assert normalize("小孩儿有3个", forms) == "小孩儿有三个"
