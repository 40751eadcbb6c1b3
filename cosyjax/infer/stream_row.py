"""What the host knows of one stream: its text that waits, and the size of its next chunk."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from cosyjax.infer.speak import Conditions
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.voice_state import VoiceState
from cosyjax.text.feed import Fed


class Opening(NamedTuple):
    """What a stream begins with, before its text."""

    conditions: Conditions
    voice: VoiceState
    key: jax.Array  # piece i of the text is drawn with fold_in(key, i)
    schedule: StreamConfig = StreamConfig()
    blocks: bool = False  # the LM reads text while it comes; else it waits for whole pieces


class Taken(NamedTuple):
    """Text that goes to the LM."""

    tokens: np.ndarray  # int32 [K]
    final: bool  # the piece is complete


@dataclasses.dataclass
class Row:
    """One stream."""

    opening: Opening
    sizes: Iterator[int]
    size: int  # tokens of the next chunk
    ticket: int  # number of the stream
    inbox: collections.deque[Fed] = dataclasses.field(default_factory=collections.deque)
    ended: bool = False  # no text will come
    final: bool = False  # and the device knows
    piece: int = 0  # pieces that have been given to the LM
    version: int = 0  # how often the LM has been given something
    reading: bool = False  # the last piece is not complete
    room: int = 0  # text tokens that it takes now
    hungry: bool = False  # the LM has ended it, as of the last step
    resting: bool = False  # the LM has drawn all that its text allows
    silent: bool = True  # the last step said nothing
    num_spoken: int = 0  # tokens of the pieces before

    @property
    def starved(self) -> bool:
        """Nothing can be said before more text comes."""
        waits = self.hungry or self.resting or not self.piece
        return self.silent and waits and not self.ended and not self._complete

    @property
    def _complete(self) -> bool:
        """The inbox holds the end of a piece."""
        return any(fed.ends for fed in self.inbox)

    def take_first(self, least: int, room: int) -> Taken | None:
        """Takes the beginning of a piece out of the inbox.

        Args:
          least: text tokens without which the LM cannot begin, unless the piece is complete.
          room: text tokens that it takes at once.

        Returns:
          None where what has come is not enough.
        """
        if not self.inbox:
            return None
        there = self.ended or self._complete
        if not there and not (self.opening.blocks and self._waiting >= least):
            return None
        return self.take(room if self.opening.blocks else self._waiting)

    @property
    def _waiting(self) -> int:
        return sum(len(fed.tokens) for fed in self.inbox)

    def take(self, room: int) -> Taken:
        """Takes as much of the present piece out of the inbox as there is room for."""
        tokens: list[int] = []
        while self.inbox and len(tokens) < room:
            fed, space = self.inbox.popleft(), room - len(tokens)
            tokens += fed.tokens[:space]
            if len(fed.tokens) > space:
                self.inbox.appendleft(Fed(fed.tokens[space:], fed.ends))
            elif fed.ends:
                return Taken(np.asarray(tokens, np.int32), True)
        return Taken(np.asarray(tokens, np.int32), self.ended and not self.inbox)
