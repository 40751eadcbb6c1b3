"""What all pipelines share: opening sources, reading ahead in threads, and an exact state.

A pipeline plans global batches from the columns of its sources alone (`data.order`), and each
process reads its own rows. So the batches are the same with any number of processes and threads,
and a state is the number of the next batch, beside what the order was made from.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import grain
import numpy as np

from cosyjax import config
from cosyjax.data import records
from cosyjax.data.config import RECORDS_PER_SOURCE, Source, SourceConfig, rows_of_process
from cosyjax.data.order import Batch, Plan
from cosyjax.data.reader import Reader
from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(abc.ABC):
    """A stage's data: from the records of its sources to batches."""

    sources: tuple[SourceConfig, ...] = ()  # data folders and their weights
    batch_size: int = 16  # rows of a batch over all processes
    num_threads: int = 4  # threads that read; 0 reads when a batch is asked for
    read_ahead: int = 4  # batches read ahead of the step, at least num_threads

    kind: ClassVar[str] = "features"
    # The order of the records does not depend on these.
    free: ClassVar[tuple[str, ...]] = ("sources", "num_threads", "read_ahead")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size}; at least one row is needed")
        if not 0 <= self.num_threads <= self.read_ahead:
            raise InputError(
                f"num_threads={self.num_threads} with read_ahead={self.read_ahead}; every thread "
                "reads one batch, so 0 <= num_threads <= read_ahead"
            )

    def open(self, split: str) -> tuple[Source, ...]:
        """Opens every source."""
        if not self.sources:
            raise InputError("no data: set data.sources=[{'path': 'FOLDER'}], see cosyjax prepare")
        return tuple(records.open_source(s.path, self.kind, split) for s in self.sources)

    def dataset(
        self, split: str, *, seed: int, process: int = 0, num_processes: int = 1
    ) -> grain.IterDataset:
        """The rows of one process.

        Args:
          split: "train", shuffled and repeated for ever, or "heldout", one ordered pass whose
            last batch is filled up with empty rows (lengths 0, record -1).
          seed: with the record and the epoch it decides all that is random.
          process: which process reads.
          num_processes: how many read; batches do not depend on it.

        Returns:
          A grain dataset of dictionaries of arrays. Its iterator has `skips`, a SkipLog.

        Raises:
          InputError: a source that cannot be opened or has nothing to offer, or rows that do not
            divide among the processes.
        """
        shares = functools.partial(rows_of_process, process=process, num_processes=num_processes)
        return self.dataset_of(self.open(split), split, seed, shares)

    def dataset_of(
        self,
        sources: Sequence[Source],
        split: str,
        seed: int,
        shares: Any = functools.partial(rows_of_process, process=0, num_processes=1),
    ) -> grain.IterDataset:
        """`dataset` over sources that are open already; `shares` maps a batch's rows to a slice."""
        if seed < 0:
            raise InputError(f"seed={seed}; 0 or more is needed")
        # Held-out batches are to be the same whatever the training's seed.
        drawn, skips = seed if split == "train" else 0, SkipLog()
        plan = self.plan(sources, split, drawn, skips)
        slices = tuple(shares(size) for size in self.sizes())
        reader = Reader(sources, drawn, plan, skips)
        read = functools.partial(_read, self, reader, slices)
        options = grain.ReadOptions(
            num_threads=self.num_threads,
            prefetch_buffer_size=self.read_ahead if self.num_threads else 0,
        )
        parent = grain.MapDataset.source(plan).map(read).to_iter_dataset(options)
        return ResumableDataset(parent, self.recipe(sources, split, drawn), skips)

    def sizes(self) -> tuple[int, ...]:
        """Rows of a global batch of each bucket."""
        return (self.batch_size,)

    @abc.abstractmethod
    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records, as long as those of this bucket."""

    def longest(self) -> Arrays:
        """A global batch of the longest bucket, without records: what the memory must hold."""
        return self.empty(len(self.sizes()) - 1, self.sizes()[-1])

    @abc.abstractmethod
    def plan(self, sources: Sequence[Source], split: str, seed: int, skips: SkipLog) -> Plan:
        """Orders the records into batches; notes those that it cannot use."""

    @abc.abstractmethod
    def collate(self, batch: Batch, reader: Reader) -> Arrays:
        """Reads the rows of `batch`, which are one process's share."""

    def weight(self, index: int) -> float:
        """The weight of source `index`; sources handed over open weigh the same."""
        return self.sources[index].weight if index < len(self.sources) else 1.0

    def recipe(self, sources: Sequence[Source], split: str, seed: int) -> dict[str, Any]:
        """All that the order of the records was made from, as JSON."""
        values = {k: v for k, v in config.to_dict(self).items() if k not in self.free}
        for index, source in enumerate(sources):
            names = zlib.crc32("\n".join(source.column("id")).encode())
            values[f"sources[{index}]"] = (
                f"{len(source)} records {names:08x} weight {self.weight(index)}"
            )
        return {"pipeline": type(self).__name__, "split": split, "seed": seed} | values


def _read(pipeline: Pipeline, reader: Reader, slices: tuple[slice, ...], batch: Batch) -> Arrays:
    return pipeline.collate(batch._replace(rows=batch.rows[slices[batch.bucket]]), reader)


class ResumableDataset(grain.IterDataset):
    """Refuses the state of another order of the records."""

    def __init__(self, parent: grain.IterDataset, recipe: dict[str, Any], skips: SkipLog):
        super().__init__(parent)
        self._source, self._recipe, self.skips = parent, recipe, skips

    def __iter__(self) -> ResumableIterator:
        return ResumableIterator(iter(self._source), self._recipe, self.skips)


class ResumableIterator(grain.DatasetIterator):
    """State: the number of the next batch, and the recipe of the order."""

    def __init__(self, parent: Any, recipe: dict[str, Any], skips: SkipLog):
        super().__init__(parent)
        self._source, self._recipe, self.skips = parent, recipe, skips

    def __next__(self) -> Arrays:
        return next(self._source)

    def get_state(self) -> dict[str, Any]:
        return {"next": self._source.get_state(), "recipe": dict(self._recipe)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken, in this process or another.

        Raises:
          InputError: the records or their order are not those of the state.
        """
        saved = state.get("recipe", {})
        for name in sorted(saved.keys() | self._recipe.keys()):
            if saved.get(name) != self._recipe.get(name):
                raise InputError(
                    f"the data cannot go on where it stopped: {name} was {saved.get(name)!r} and "
                    f"is {self._recipe.get(name)!r}; put it back, or start the data again, with "
                    "another seed so that the first records do not come up twice"
                )
        self._source.set_state(state["next"])


def name_records(pipeline: Pipeline, split: str, numbers: Iterable[int]) -> list[str]:
    """Turns the `records` of a batch into the ids of the records; -1 is left out."""
    sources = pipeline.open(split)
    names: dict[int, list[str]] = {}
    found = []
    for number in np.asarray(numbers).reshape(-1).tolist():
        if number >= 0:
            source, record = divmod(number, RECORDS_PER_SOURCE)
            if source not in names:
                names[source] = sources[source].column("id")
            found.append(names[source][record])
    return found
