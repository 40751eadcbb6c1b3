"""What counts as a unit in which language."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType

import pytest

from cosyjax.errors import InputError
from cosyjax.eval import text_norm


@pytest.fixture(autouse=True)
def fresh():
    text_norm._simplifier.cache_clear()
    yield
    text_norm._simplifier.cache_clear()


def test_english_and_other_languages_have_normalizers_of_their_own(normalizer) -> None:
    assert text_norm.units("Hello. There", "en-GB") == ["hello", "there"]
    assert text_norm.units("Hallo. Du", "de") == ["hallo.", "du"]


@pytest.mark.parametrize(
    "text, lang, units",
    [
        ("你好，世界！", "zh", "你好世界"),
        ("ＡＢ １２ ok", "zh-CN", "ab12ok"),
        ("コーヒー、です。", "ja", "コーヒーです"),
    ],
)
def test_chinese_and_japanese_are_counted_in_letters_and_digits(text, lang, units) -> None:
    assert text_norm.units(text, lang) == list(units)


def test_traditional_characters_count_as_simplified_but_not_in_japanese(monkeypatch) -> None:
    fake = ModuleType("zhconv")
    fake.convert = lambda text, script: text.replace("語", "语")
    monkeypatch.setitem(sys.modules, "zhconv", fake)
    assert text_norm.units("漢語", "zh") == ["漢", "语"]
    assert text_norm.units("日本語", "ja") == ["日", "本", "語"]
    assert text_norm.simplifies()


def test_a_missing_normalizer_says_what_to_install(monkeypatch) -> None:
    imported = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("whisper_normalizer"):
            raise ImportError(name)
        return imported(name, *rest)

    text_norm._word_normalizer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'cosyjax\[eval\]'"):
        text_norm.units("Hello.", "en")
