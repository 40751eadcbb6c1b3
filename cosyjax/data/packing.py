"""First-fit packing of sequences into rows of one length, planned for a whole epoch at once."""

from __future__ import annotations

import functools

import numpy as np

from cosyjax.data.order import SHUFFLE, Draw, Row

FULL_ROUND = 256  # rows; a source with fewer packs several epochs together, for fuller rows


def first_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """First-fit decreasing: each sequence goes into the first row with room for it.

    Args:
      lengths: [n] int, longest first, none above `capacity`.
      capacity: length of a row.

    Returns:
      [n] int row of each sequence. Rows are numbered from 0.
    """
    room, used = np.zeros(0, np.int64), []
    for length, count in zip(*(x[::-1] for x in np.unique(lengths, return_counts=True))):
        # Equal sequences fill the rows one after another, so that all of them go at once.
        most = np.minimum(room // length, count)
        takes = np.minimum(most, np.maximum(count - (np.cumsum(most) - most), 0))
        left = int(count - takes.sum())
        fits = int(capacity // length)
        opened = np.full(-(-left // fits), fits)
        opened[-1:] -= len(opened) * fits - left
        takes = np.concatenate([takes, opened])
        room = np.concatenate([room, np.full(len(opened), capacity)]) - takes * length
        used.append(np.repeat(np.arange(len(takes)), takes))
    return np.concatenate(used)


class Packed:
    """The rows of one source, packed anew in every round, for ever.

    Which lengths share a row never changes, because first-fit decreasing depends on the lengths
    alone; which record of a length goes where, and the order of the rows, is drawn per round. So
    every round has the same number of rows, and a row is found from its number.
    """

    def __init__(
        self, source: int, members: np.ndarray, lengths: np.ndarray, capacity: int, seed: int
    ):
        """Packs records `members` [n] of `lengths` [n] into rows of `capacity` positions."""
        total = int(lengths.sum())
        self._copies = max(1, -(-FULL_ROUND * capacity // total))  # epochs in a round
        self._source, self._seed = source, seed
        self._members, self._lengths = members, lengths
        rows = first_fit(np.sort(np.tile(lengths, self._copies))[::-1], capacity)
        self._slots = np.argsort(rows, kind="stable")  # places among the sorted, row after row
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(rows))])
        self.fill = total * self._copies / (capacity * self.num_rows)
        self._round = functools.lru_cache(maxsize=2)(self._draw)

    @property
    def num_rows(self) -> int:
        """Rows of a round."""
        return len(self._starts) - 1

    @property
    def most(self) -> int:
        """Sequences of the fullest row."""
        return int(np.diff(self._starts).max())

    def __getitem__(self, index: int) -> Row:
        turn, place = divmod(index, self.num_rows)
        row_of, used = self._round(turn)
        row = int(row_of[place])
        uses = used[self._slots[self._starts[row] : self._starts[row + 1]]].tolist()
        num = len(self._members)
        first = turn * self._copies
        return tuple(
            Draw(self._source, int(self._members[use % num]), first + use // num) for use in uses
        )

    def _draw(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Row of each place of a round, and the use (copy * n + member) of each sorted place."""
        random = np.random.default_rng([SHUFFLE, self._seed, self._source, turn])
        uses = random.permutation(self._copies * len(self._members))
        used = uses[np.argsort(-self._lengths[uses % len(self._members)], kind="stable")]
        return random.permutation(self.num_rows), used


def pack_once(source: int, members: np.ndarray, lengths: np.ndarray, capacity: int) -> list[Row]:
    """The rows of one ordered pass: first fit in the order of the records."""
    rows: list[list[Draw]] = []
    room = np.zeros(len(members), np.int64)
    for record, length in zip(members.tolist(), lengths.tolist(), strict=True):
        row = int(np.argmax(np.append(room[: len(rows)] >= length, True)))
        if row == len(rows):
            rows.append([])
            room[row] = capacity
        rows[row].append(Draw(source, record, 0))
        room[row] -= length
    return [tuple(row) for row in rows]
