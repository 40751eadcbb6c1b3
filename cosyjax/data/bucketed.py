"""Pipelines whose rows are one record each, in batches of records of like length."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosyjax.data.config import Source
from cosyjax.data.order import Batch, Batched, Draw, Mixed, Plan, Pools, Row, Shuffled, in_order
from cosyjax.data.pipeline import Arrays, Pipeline
from cosyjax.data.reader import Reader, number_of
from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketedPipeline(Pipeline):
    """One record a row. Subclasses say which bucket a record is in, and what becomes of it."""

    def buckets_of(self, source: Source, skips: SkipLog) -> np.ndarray:
        """[n] int bucket of each record; -1, noted in `skips`, where it cannot be used."""
        return np.zeros(len(source), np.int64)

    @abc.abstractmethod
    def sample(
        self, record: dict[str, Any], random: np.random.Generator, bucket: int
    ) -> dict[str, Any]:
        """What goes into the row of each array, at its beginning; InputError if unusable."""

    def plan(self, sources: Sequence[Source], split: str, seed: int, skips: SkipLog) -> Plan:
        """Shuffles the records of a bucket, and the buckets in proportion to their batches."""
        members = self._members([self.buckets_of(source, skips) for source in sources])
        if not members:
            raise InputError(f"no usable record in the {split} split: {dict(skips.counts)}")
        return self._shuffled(members, seed) if split == "train" else self._once(members)

    def _members(self, chosen: Sequence[np.ndarray]) -> Pools:
        """{(bucket, source): its records}, without empty ones."""
        found = {
            (bucket, source): np.flatnonzero(of_record == bucket)
            for source, of_record in enumerate(chosen)
            for bucket in range(len(self.sizes()))
        }
        return {place: records for place, records in sorted(found.items()) if len(records)}

    def _shuffled(self, members: Pools, seed: int) -> Plan:
        usable = {source: 0 for _, source in members}
        for (_, source), records in members.items():
            usable[source] += len(records)
        parts, weights = [], []
        for bucket, size in enumerate(self.sizes()):
            here = [place for place in members if place[0] == bucket]
            if not here:
                continue
            orders = [
                Shuffled(source, members[bucket, source], (seed, bucket)) for _, source in here
            ]
            # A source's records come up equally often, whatever their bucket.
            shares = [self.weight(s) * len(members[bucket, s]) / usable[s] for _, s in here]
            parts.append(Batched(bucket, Mixed(orders, shares), size))
            weights.append(sum(shares) / size)
        return Plan(Mixed(parts, weights), pools=members)

    def _once(self, members: Pools) -> Plan:
        batches: list[Batch] = []
        for bucket, size in enumerate(self.sizes()):
            rows: list[Row] = [
                (Draw(source, record, 0),)
                for place, source in members
                if place == bucket
                for record in members[bucket, source].tolist()
            ]
            batches += in_order(bucket, rows, size)
        return Plan(batches, len(batches))

    def collate(self, batch: Batch, reader: Reader) -> Arrays:
        """Reads each row's record, or another in its place, and pads to the bucket."""
        arrays = self.empty(batch.bucket, len(batch.rows))
        arrays["records"] = np.full(len(batch.rows), -1, np.int64)
        make = functools.partial(self.sample, bucket=batch.bucket)
        for i, row in enumerate(batch.rows):
            if not row:
                continue
            draw, values = reader.read_or_replace(row[0], batch.bucket, make)
            if values is None:
                continue
            arrays["records"][i] = number_of(draw)
            for name, value in values.items():
                value = np.asarray(value)
                place: tuple[int | slice, ...] = (i, *(slice(size) for size in value.shape))
                arrays[name][place] = value
        return arrays


def bucket_of(sizes: np.ndarray, buckets: Sequence[float]) -> np.ndarray:
    """[n] index of the smallest bucket that holds each size; -1 above the largest."""
    index = np.searchsorted(np.asarray(buckets), sizes)
    return np.where(index < len(buckets), index, -1)


def check_buckets(name: str, buckets: Sequence[float]) -> None:
    """Raises InputError unless `buckets` are positive and rise."""
    if not buckets or buckets[0] <= 0 or list(buckets) != sorted(set(buckets)):
        raise InputError(f"{name}={buckets}: positive sizes are needed, each above the one before")


def rows_by_budget(buckets: Sequence[float], batch_size: int, unit: int) -> tuple[int, ...]:
    """Rows of each bucket, so that all hold about as much as `batch_size` of the longest.

    They are multiples of `unit`, or of what it has in common with `batch_size`.
    """
    unit = math.gcd(unit, batch_size)
    return tuple(int(batch_size * buckets[-1] / (size * unit)) * unit for size in buckets)
