"""Reads the records that a plan names; a record that cannot be read never stops the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cosyjax.data.config import RECORDS_PER_SOURCE, Source
from cosyjax.data.order import FOREVER, REPLACE, SAMPLE, Draw, Plan
from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError

TRIES = 100  # records in a row that may be unreadable before it is an error
Sample = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def number_of(draw: Draw) -> int:
    """How a batch names a record."""
    return draw.source * RECORDS_PER_SOURCE + draw.record


class Reader:
    """Reads records in any thread; what comes out is a function of the draw alone."""

    def __init__(self, sources: Sequence[Source], seed: int, plan: Plan, skips: SkipLog):
        self._sources, self._seed, self._skips = sources, seed, skips
        self._pools, self.endless = plan.pools, len(plan) == FOREVER

    def read(self, draw: Draw, sample: Sample) -> dict[str, Any] | None:
        """Reads a record and makes a sample of it; None where either is impossible.

        Args:
          draw: which record.
          sample: takes the record and a generator seeded by (seed, draw); it may raise
            InputError, which counts as an unreadable record.
        """
        random = np.random.default_rng([SAMPLE, self._seed, *draw])
        try:
            return sample(self._sources[draw.source][draw.record], random)
        except InputError as error:
            name = self._sources[draw.source].column("id")[draw.record]
            self._skips.unreadable(name, error)
            return None

    def read_or_replace(
        self, draw: Draw, bucket: int, sample: Sample
    ) -> tuple[Draw, dict[str, Any] | None]:
        """`read`; in place of an unreadable record another of its bucket, drawn at random.

        In a split without pools, the held-out one, nothing stands in: None.

        Raises:
          InputError: too many unreadable records in a row.
        """
        pool, first = self._pools.get((bucket, draw.source)), draw
        for attempt in range(TRIES):
            found = self.read(draw, sample)
            if found is not None or pool is None:
                return draw, found
            random = np.random.default_rng([REPLACE, self._seed, *first, attempt])
            draw = first._replace(record=int(random.choice(pool)))
        raise self.broken()

    def broken(self) -> InputError:
        """The error for data of which nothing can be read."""
        name, problem = next(iter(self._skips.names.items()), ("?", "?"))
        return InputError(
            f"{TRIES} records in a row, or a whole batch, are unreadable, {name} among them: "
            f"{problem}; prepare the data again"
        )
