"""Text that arrives bit by bit, as tokens that do not depend on how it was cut.

A word is held until it is certain where it ends, because byte pairs are merged within words. What
has been given for a text fed one character at a time is what is given for it at once. Segments
end where sentences do: the language model reads one at a time, and its memory is finite.

Texts that arrive are not normalised (neither does the official code): a number that is cut in two
cannot be spelt out. Spell numbers out, or take `SentenceFeed`, which waits for whole sentences.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cosyjax.errors import InputError
from cosyjax.text.split import CLOSING_QUOTES

WIDE_MARKS = "。？！；"  # end a sentence whatever follows
MARKS = ".?!;"  # end one where a blank follows
OPENING, CLOSING = "[<", "]>"
LONGEST_SPECIAL = 24  # characters of a special token such as [quick_breath]


class Fed(NamedTuple):
    """Text tokens for the language model."""

    tokens: tuple[int, ...]
    ends: bool  # the segment ends with them


@dataclasses.dataclass(frozen=True)
class SegmentRule:
    """Text tokens of a segment. The next one begins with the next sentence, or in need a word."""

    shortest: int = 60  # from here on a sentence ends the segment
    longest: int = 160  # from here on a word does

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"shortest={self.shortest}, longest={self.longest}: 1 <= shortest <= longest is "
                "needed"
            )


class WordFeed:
    """Gives every word as soon as it is complete."""

    def __init__(
        self, encode: Callable[[str], Sequence[int]], rule: SegmentRule = SegmentRule()
    ) -> None:
        """Begins a text.

        Args:
          encode: text to ids.
          rule: where segments end.
        """
        self._encode, self._rule = encode, rule
        self._held, self._count = "", 0  # characters not given yet; tokens given of the segment

    def push(self, text: str) -> Iterator[Fed]:
        """Takes the next characters; yields what has become certain by them."""
        for character in text:
            if self._held and _ends_word(self._held, character):
                yield from self._give(_ends_sentence(self._held, character))
            if self._held or self._count or not character.isspace():
                self._held += character

    def close(self) -> Iterator[Fed]:
        """The text has ended: yields what is left."""
        if self._held or self._count:
            yield Fed(tuple(self._encode(self._held.rstrip())), True)
        self._held, self._count = "", 0

    def _give(self, ends_sentence: bool) -> Iterator[Fed]:
        tokens = tuple(self._encode(self._held))
        self._held, self._count = "", self._count + len(tokens)
        rule = self._rule
        ends = self._count >= (rule.shortest if ends_sentence else rule.longest)
        self._count = 0 if ends else self._count
        if tokens:
            yield Fed(tokens, ends)


class SentenceFeed:
    """Gives every sentence whole, normalised, as a segment or several of its own."""

    def __init__(self, pieces: Callable[[str], Sequence[Sequence[int]]]) -> None:
        """Begins a text.

        Args:
          pieces: a sentence to the ids of each piece that is to be spoken; none where there is
            nothing to speak.
        """
        self._pieces, self._held = pieces, ""

    def push(self, text: str) -> Iterator[Fed]:
        """Takes the next characters; yields the sentences that they complete."""
        for character in text:
            if self._held and _ends_sentence(self._held, character):
                yield from self._give()
            self._held += character

    def close(self) -> Iterator[Fed]:
        """The text has ended: yields what is left."""
        yield from self._give()

    def _give(self) -> Iterator[Fed]:
        sentence, self._held = self._held.strip(), ""
        if sentence:
            for piece in self._pieces(sentence):
                yield Fed(tuple(piece), True)


def _ends_word(held: str, following: str) -> bool:
    """Whether no byte pair can reach over from `held` to `following`."""
    start = max(held.rfind(mark) for mark in OPENING)
    if 0 <= start and len(held) - start < LONGEST_SPECIAL:
        if not any(mark in held[start:] for mark in CLOSING) and not following.isspace():
            return False  # perhaps a special token
    if _ends_sentence(held, following):
        return True
    # A mark or blank goes with the letters after it, never with those before; a newline or an
    # accent may.
    if following.isalnum() or not following.isprintable() or unicodedata.combining(following):
        return False
    return held[-1].isalnum()


def _ends_sentence(held: str, following: str) -> bool:
    """Whether a sentence ends between `held` and `following`."""
    if following in CLOSING_QUOTES or following in WIDE_MARKS + MARKS:
        return False
    bare = held.rstrip(CLOSING_QUOTES)
    if not bare:
        return False
    return bare[-1] in WIDE_MARKS or (bare[-1] in MARKS and following.isspace())
