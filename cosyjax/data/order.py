"""The order of the records: which of them make up a row, and which rows a batch.

Every order here is a function of its index, so that the state of a pipeline is one number, and
all processes agree on a global batch without a word between them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

FOREVER = sys.maxsize
PERIOD = 4096  # a mixture repeats its choice of components after this many
SHUFFLE, SAMPLE, REPLACE = range(3)  # what randomness is for: the first word of every seed


class Draw(NamedTuple):
    """One use of one record."""

    source: int
    record: int
    epoch: int


Row = tuple[Draw, ...]  # one record, or several packed; none in what fills up a last batch


class Rows(Protocol):
    """Rows, or batches of them, by number."""

    def __getitem__(self, index: int) -> Any:
        """Returns row `index`."""


class Batch(NamedTuple):
    """A global batch before anything is read."""

    bucket: int
    rows: tuple[Row, ...]
    width: int = 1  # records of the fullest row that the split has


class Shuffled:
    """The records of one source, shuffled anew in every epoch, for ever; one record a row."""

    def __init__(self, source: int, members: np.ndarray, seed: tuple[int, ...]):
        self._source, self._members = source, members
        self._epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([SHUFFLE, *seed, source, epoch]).permutation(
                members
            )
        )

    def __getitem__(self, index: int) -> Row:
        epoch, place = divmod(index, len(self._members))
        return (Draw(self._source, int(self._epoch(epoch)[place]), epoch),)


class Mixed:
    """Several orders, each advancing in proportion to its weight, evenly spread."""

    def __init__(self, parts: Sequence[Rows], weights: Sequence[float]):
        self._parts = parts
        self._choice = spread(np.asarray(weights, np.float64))
        uses = self._choice[:, None] == np.arange(len(parts))
        self._before = np.cumsum(uses, axis=0) - uses  # uses of a part earlier in the period
        self._uses = uses.sum(axis=0)  # in a whole period

    def __getitem__(self, index: int) -> Any:
        period, place = divmod(index, len(self._choice))
        part = int(self._choice[place])
        return self._parts[part][period * int(self._uses[part]) + int(self._before[place, part])]


class Batched:
    """Batches of so many consecutive rows."""

    def __init__(self, bucket: int, rows: Rows, size: int, width: int = 1):
        self._bucket, self._rows, self._size, self._width = bucket, rows, size, width

    def __getitem__(self, index: int) -> Batch:
        first = index * self._size
        rows = tuple(self._rows[first + i] for i in range(self._size))
        return Batch(self._bucket, rows, self._width)


# {(bucket, source): records that may stand in for an unreadable one}
Pools = Mapping[tuple[int, int], np.ndarray]


class Plan:
    """All the batches of a split: a random-access source for grain."""

    def __init__(self, batches: Rows, length: int = FOREVER, pools: Pools = MappingProxyType({})):
        self._batches, self._length, self.pools = batches, length, pools

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index]

    def __repr__(self) -> str:
        return f"Plan(length={self._length})"


def in_order(bucket: int, rows: Sequence[Row], size: int) -> list[Batch]:
    """Batches for one pass; the last is filled up with empty rows."""
    width = max(map(len, rows), default=1)
    rows = tuple(rows) + ((),) * (-len(rows) % size)
    return [Batch(bucket, rows[i : i + size], width) for i in range(0, len(rows), size)]


def spread(weights: np.ndarray) -> np.ndarray:
    """Chooses a component for each place of a period.

    Args:
      weights: [K] float64 above 0.

    Returns:
      [PERIOD] int: component k in a share of the places as near to its weight as they allow, at
      least one, and as evenly spread as they allow.
    """
    share = np.maximum(weights / weights.sum(), 1.0 / PERIOD)
    share, owed = share / share.sum(), np.zeros(len(weights))
    choice = np.empty(PERIOD if len(weights) > 1 else 1, np.int64)
    for place in range(len(choice)):
        owed += share
        choice[place] = np.argmax(owed)
        owed[choice[place]] -= 1.0
    return choice
