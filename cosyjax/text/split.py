"""Cuts text into sentences and packs them into pieces of a length the LM was trained on.

The official front end's rule: cut after every sentence mark, then fill pieces greedily. Lengths
are characters for Chinese and text tokens for other languages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Tokenize = Callable[[str], Sequence[Any]]

MARKS = {"zh": "。？！；：、.?!;", "en": ".?!;:"}
FULL_STOP = {"zh": "。", "en": "."}
COMMAS = "，,"
CLOSING_QUOTES = '"”'


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """Lengths in characters (zh) or text tokens (en) that decide where a piece ends."""

    longest: int = 80  # a sentence that would take a piece beyond this starts a new one ...
    shortest: int = 60  # ... unless the piece is still this short
    merge: int = 20  # a last piece below this joins the one before
    at_commas: bool = False  # also cut after commas


def split_text(
    text: str, tokenize: Tokenize, language: str = "zh", rule: SplitRule = SplitRule()
) -> list[str]:
    """Splits normalised text into pieces to be spoken one by one.

    Args:
      text: without line structure; a full stop is added where it ends in no sentence mark.
      tokenize: gives the text tokens of a string; only their number counts, only for "en".
      language: "zh" or "en".
      rule: the lengths.

    Returns:
      Pieces in order; none for empty text.
    """
    if not text:
        return []
    marks = MARKS[language] + (COMMAS if rule.at_commas else "")
    text = text if text[-1] in marks else text + FULL_STOP[language]
    measure = len if language == "zh" else (lambda piece: len(tokenize(piece)))
    return _pack(_sentences(text, marks), measure, rule)


def _sentences(text: str, marks: str) -> Iterator[str]:
    """Yields sentences with their mark; marks that end nothing are dropped.

    A closing quote right after a mark belongs to the sentence before it; where that mark ends
    nothing, the quote goes to the last sentence and the mark is lost, as officially.
    Differs: where there is no sentence yet (the official code fails) the quote stands alone.
    """
    pending, start = "", 0
    for index, character in enumerate(text):
        if character not in marks:
            continue
        if index > start:
            if pending:
                yield pending
            pending = text[start : index + 1]
        quoted = text[index + 1 : index + 2]
        if quoted and quoted in CLOSING_QUOTES:
            pending += quoted
        start = index + 1 + bool(quoted and quoted in CLOSING_QUOTES)
    if pending:
        yield pending


def _pack(sentences: Iterator[str], measure: Callable[[str], int], rule: SplitRule) -> list[str]:
    pieces: list[str] = []
    current = ""
    for sentence in sentences:
        full = current and measure(current + sentence) > rule.longest
        if full and measure(current) > rule.shortest:
            pieces.append(current)
            current = ""
        current += sentence
    if pieces and current and measure(current) < rule.merge:
        pieces[-1] += current
    elif current:
        pieces.append(current)
    return pieces
