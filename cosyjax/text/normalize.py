"""Text normalisation before tokenizing: the official front end's steps, in its order.

Chinese text (any character in U+4E00..U+9FFF) and all other text take different steps. Numbers
and dates are written out by `wetext` where it is installed (the extra `[text]`); without it, only
digit runs of non-Chinese text become English words.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Generator
from typing import Any

from cosyjax.text.split import SplitRule, Tokenize, split_text

# (text, "zh" or "en") -> text with numbers, dates and units written as they are spoken.
SpokenForms = Callable[[str, str], str]

_CHINESE = re.compile("[\u4e00-\u9fff]")
_TRAILING_COMMAS = re.compile("[，,、]+$")
_SUPERSCRIPTS = str.maketrans({"²": "平方", "³": "立方"})
_BRACKETS = str.maketrans("", "", "（）【】`")


def contains_chinese(text: str) -> bool:
    """True if any character is a CJK unified ideograph (U+4E00..U+9FFF)."""
    return _CHINESE.search(text) is not None


def replace_corner_marks(text: str) -> str:
    """Writes superscript two and three as Chinese words."""
    return text.translate(_SUPERSCRIPTS)


def remove_brackets(text: str) -> str:
    """Deletes Chinese brackets and backticks; a double dash becomes a blank."""
    return text.translate(_BRACKETS).replace("——", " ")


def remove_blanks(text: str) -> str:
    """Deletes each blank unless both neighbours are ASCII and not blank.

    Differs: the official code fails on a blank at the end; here it is deleted. A blank at the
    start takes the last character for its left neighbour, as officially.
    """

    def keeps(index: int) -> bool:
        if index + 1 == len(text):
            return False
        neighbours = text[index + 1] + text[index - 1]
        return neighbours.isascii() and " " not in neighbours

    return "".join(c for i, c in enumerate(text) if c != " " or keeps(i))


def spell_out_numbers(text: str) -> str:
    """Writes every run of digit characters as English words.

    Differs: a number beyond decillions (over 36 digits), for which there are no words and the
    official code fails, is read digit by digit.
    """
    runs = itertools.groupby(text, key=str.isdigit)
    return "".join(_number_words("".join(run)) if digits else "".join(run) for digits, run in runs)


def _number_words(digits: str) -> str:
    import inflect  # 0.3 s to import, and Chinese text never needs it

    to_words = _number_engine().number_to_words
    try:
        return str(to_words(digits))
    except (inflect.NumOutOfRangeError, ValueError):  # ValueError: beyond 4300 digits
        names = {digit: str(to_words(digit)) for digit in set(digits)}
        return ", ".join(names[digit] for digit in digits)


@functools.cache
def _number_engine() -> Any:
    import inflect

    return inflect.engine()


def is_only_punctuation(text: str) -> bool:
    """True if every character is punctuation or a symbol (Unicode P and S); true when empty."""
    return all(unicodedata.category(character)[0] in "PS" for character in text)


@functools.cache
def load_spoken_forms() -> SpokenForms | None:
    """Returns the wetext normalisers (erhua kept), or None where wetext is not installed."""
    try:
        from wetext import Normalizer
    except ImportError:
        return None
    normalizers = {"zh": Normalizer(lang="zh", remove_erhua=False), "en": Normalizer(lang="en")}
    return lambda text, language: str(normalizers[language].normalize(text))


def normalize(text: str, spoken_forms: SpokenForms | None = None) -> str:
    """Normalises a text as a whole (the official `split=False`, used for prompt transcripts).

    Args:
      text: returned untouched when it holds both `<|` and `|>`, which marks it as prepared.
      spoken_forms: from `load_spoken_forms()`; None leaves numbers in Chinese text as they are.
    """
    if is_prepared(text):
        return text
    text = text.strip()
    language = "zh" if contains_chinese(text) else "en"
    if spoken_forms is not None and text:
        text = spoken_forms(text, language)
    return _normalize_chinese(text) if language == "zh" else spell_out_numbers(text)


def is_prepared(text: str) -> bool:
    """True if the text carries special tokens, or is empty, and so is not to be normalised."""
    return not text or ("<|" in text and "|>" in text)


def _normalize_chinese(text: str) -> str:
    text = remove_blanks(text.replace("\n", ""))
    text = replace_corner_marks(text).replace(".", "。").replace(" - ", "，")
    return _TRAILING_COMMAS.sub("。", remove_brackets(text))


def normalize_and_split(
    text: str | Generator[Any, None, None],
    tokenize: Tokenize,
    *,
    enabled: bool = True,
    spoken_forms: SpokenForms | None = None,
    rule: SplitRule = SplitRule(),
) -> list[Any]:
    """Normalises a text and splits it into the pieces that are spoken one by one.

    Args:
      text: a string, or a generator of text (text streaming), which passes untouched.
      tokenize: see `split_text`.
      enabled: False returns the text as one untouched piece.
      spoken_forms: see `normalize`.
      rule: see `split_text`.

    Returns:
      Pieces in order. Pieces of nothing but punctuation are dropped, so the list may be empty;
      an empty text gives one empty piece.
      Differs: white space alone gives no piece; the official code fails there.
    """
    if not isinstance(text, str) or not enabled or is_prepared(text):
        return [text]
    language = "zh" if contains_chinese(text) else "en"
    pieces = split_text(normalize(text, spoken_forms), tokenize, language, rule)
    return [piece for piece in pieces if not is_only_punctuation(piece)]
