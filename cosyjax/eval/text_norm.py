"""Text to the units that errors are counted in, normalised as in Whisper's scoring.

English goes through Whisper's English normaliser (spelling, numbers, contractions, fillers), other
languages with spaces through its basic one; both come with the package `whisper-normalizer`.
Chinese and Japanese are counted in characters: letters and digits alone, width and case folded,
and traditional Chinese written in simplified characters where `zhconv` or `opencc` is installed.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

from cosyjax.errors import InputError
from cosyjax.eval.lists import short_lang

CHARACTER_LANGUAGES = ("zh", "yue", "ja")  # written without spaces
INSTALL = "pip install 'cosyjax[eval]'"


def is_by_character(lang: str) -> bool:
    """True where errors are counted in characters, not in words."""
    return short_lang(lang) in CHARACTER_LANGUAGES


def units(text: str, lang: str) -> list[str]:
    """Splits a text into normalised words or characters.

    Args:
      text: a reference or what a recogniser read.
      lang: its language.

    Raises:
      InputError: the package that normalises words is not installed.
    """
    short = short_lang(lang)
    if not is_by_character(lang):
        return _word_normalizer(short)(text).split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    if short != "ja":
        folded = _simplifier()(folded)
    return [character for character in folded if unicodedata.category(character)[0] in "LMN"]


@functools.cache
def _word_normalizer(lang: str) -> Callable[[str], str]:
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise InputError(
            f"word error rates need the package whisper-normalizer: {INSTALL}"
        ) from error
    return EnglishTextNormalizer() if lang == "en" else BasicTextNormalizer()


@functools.cache
def _simplifier() -> Callable[[str], str]:
    """Traditional to simplified Chinese; without a package for it, nothing changes."""
    try:
        from zhconv import convert
    except ImportError:
        pass
    else:
        return lambda text: str(convert(text, "zh-cn"))
    try:
        from opencc import OpenCC
    except ImportError:
        return lambda text: text
    return lambda text: str(OpenCC("t2s").convert(text))


def simplifies() -> bool:
    """True where traditional Chinese is converted; a report should say so."""
    return _simplifier()("語") == "语"
