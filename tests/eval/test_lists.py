"""Three kinds of lists give the same items, and name the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosyjax.errors import InputError
from cosyjax.eval.lists import choose, read_list


def written(path: Path, *lines: object) -> Path:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def test_a_plain_file_is_a_sentence_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / "s.txt", "Hello.", "", "# not spoken", "  你好。 ")
    items = read_list(path)
    assert [(i.id, i.text, i.lang) for i in items] == [
        ("0001", "Hello.", "en"),
        ("0002", "你好。", "zh"),
    ]
    assert items[1].place == f"{path}:4"


def test_a_manifest_row_brings_speaker_language_and_recording(tmp_path: Path) -> None:
    row = {"id": "a", "text": "Hi.", "speaker": "anna", "lang": "de", "path": "x.tar/a.opus"}
    item, bare = read_list(written(tmp_path / "m.jsonl", row, {"text": "Ho."}), "fr")
    assert (item.id, item.speaker, item.lang) == ("a", "anna", "de")
    assert item.recording == str(tmp_path / "x.tar/a.opus")
    assert (bare.id, bare.lang, bare.recording) == ("2", "fr", "")


def test_a_seed_tts_eval_line_has_four_or_five_fields(tmp_path: Path) -> None:
    lines = ("u1|Prompt said.|p/a.wav|Say this.", "u2|Prompt.|p/b.wav|And this.|w/u2.wav")
    four, five = read_list(written(tmp_path / "meta.lst", *lines))
    assert (four.text, four.prompt_text, four.speaker) == ("Say this.", "Prompt said.", "a")
    assert four.prompt == str(tmp_path / "p/a.wav") and four.recording == ""
    assert five.recording == str(tmp_path / "w/u2.wav")
    same = read_list(written(tmp_path / "meta.txt", *lines), seed_list=True)
    assert [i.id for i in same] == ["u1", "u2"]


@pytest.mark.parametrize(
    "name, lines, words",
    [
        ("e.txt", ["", "# only a comment"], "e.txt: holds no sentence"),
        ("m.jsonl", [{"text": "Hi."}, "{broken"], "m.jsonl:2: the line is not JSON"),
        ("m.jsonl", ["[1]"], "m.jsonl:1: holds a list"),
        ("m.jsonl", [{"id": "a"}], "m.jsonl:1: the sentence has no words"),
        ("m.jsonl", [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "m.jsonl:2: id '1'"),
        ("m.lst", ["u|only|three"], "m.lst:1: 3 fields"),
        ("m.lst", ["u|text||Say."], "m.lst:1: the id or the prompt"),
    ],
)
def test_a_list_that_does_not_parse_names_the_line(tmp_path, name, lines, words) -> None:
    with pytest.raises(InputError, match=words):
        read_list(written(tmp_path / name, *lines))


def test_a_missing_list_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_list(tmp_path / "gone.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_list(tmp_path / "b.txt")


def test_a_limit_is_spread_over_the_list(tmp_path: Path) -> None:
    items = read_list(written(tmp_path / "s.txt", *map(str, range(10))))
    assert [i.text for i in choose(items, (), 3)] == ["0", "3", "6"]
    assert len(choose(items, (), 99)) == 10


def test_a_language_that_is_not_there_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "Hi.", "lang": "en-US"}, {"text": "你好", "lang": "zh"}]
    items = read_list(written(tmp_path / "m.jsonl", *rows))
    assert [i.text for i in choose(items, ("en",), None)] == ["Hi."]
    with pytest.raises(InputError, match="no sentence in ja; the list has: en, zh"):
        choose(items, ("ja",), None)
