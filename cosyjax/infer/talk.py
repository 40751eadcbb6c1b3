"""One stream as something that is given text and asked for audio, and its two loops.

`Talk` waits for nothing; `speak` drives it from an iterator, `speak_async` from an asynchronous
one. Text is asked for only when nothing can be said without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence

import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.stream_row import Opening
from cosyjax.infer.stream_session import StreamSession
from cosyjax.text.feed import Fed, SentenceFeed, WordFeed

Feeder = SentenceFeed | WordFeed


class Talk:
    """A stream on a session of its own."""

    def __init__(self, session: StreamSession, opening: Opening, feeder: Feeder) -> None:
        self._session, self._feeder = session, feeder
        self._row = session.open(opening)
        self._any_text = False

    @property
    def going_on(self) -> bool:
        """Something is left to be said."""
        return self._session.busy

    @property
    def starved(self) -> bool:
        """Nothing can be said before more text comes."""
        return self._session.starved(self._row)

    def feed(self, part: str) -> None:
        """Takes the next part of the text, of any length.

        Raises:
          InputError: it is no string.
        """
        self._give(self._feeder.push(checked(part)))

    def feed_pieces(self, pieces: Iterable[Sequence[int]]) -> None:
        """Takes text tokens, each sequence to be read as a whole."""
        self._give(piece(tokens) for tokens in pieces)

    def end(self) -> None:
        """The text is complete.

        Raises:
          InputError: there was nothing to speak in it.
        """
        self._give(self._feeder.close())
        if not self._any_text:
            raise InputError("nothing to speak: the text ended without a word in it")
        self._session.end(self._row)

    def step(self) -> Iterator[np.ndarray]:
        """Yields what the next chunk says, if anything.

        Raises:
          InputError: a part of the text can never be read; the stream is over.
        """
        for said in self._session.step():
            if said.error:
                raise said.error
            if len(said.wav):
                yield said.wav

    def _give(self, parts: Iterable[Fed]) -> None:
        for fed in parts:
            self._session.feed(self._row, fed)
            self._any_text = True


def checked(part: object) -> str:
    """Returns a part of a text; raises InputError where it is none."""
    if isinstance(part, str):
        return part
    given = f"{type(part).__name__} {part!r:.40}"
    raise InputError(f"the text's source gave {given}; it must give strings")


def piece(tokens: Sequence[int]) -> Fed:
    """Text tokens that are read as a whole."""
    return Fed(tuple(int(token) for token in tokens), True)


def speak(talk: Talk, parts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yields waveforms [N] of what has been fed already and of the parts that come."""
    for part in parts:
        talk.feed(part)
        while not talk.starved:
            yield from talk.step()
    talk.end()
    while talk.going_on:
        yield from talk.step()


async def speak_async(
    talk: Talk, parts: Iterable[str] | AsyncIterable[str]
) -> AsyncIterator[np.ndarray]:
    """`speak`; each step runs in a thread, so that the event loop stays free."""
    step = lambda: list(talk.step())
    async for part in _one_by_one(parts):
        talk.feed(part)
        while not talk.starved:
            for wav in await asyncio.to_thread(step):
                yield wav
    talk.end()
    while talk.going_on:
        for wav in await asyncio.to_thread(step):
            yield wav


async def _one_by_one(parts: Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part
