"""The held-out loss, and what the task speaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cosyjax.errors import InputError
from cosyjax.train import partition
from cosyjax.train.program import Program, replicate
from cosyjax.train.state import TrainState
from cosyjax.train.step import count_of
from cosyjax.train.task import Sample, Summarizing

RECORDS = "records"  # key of a batch that stays on the host: which records the rows are
STREAM = 0x0E7A1  # sets the keys of evaluations apart from those of steps


def evaluate(program: Program, state: TrainState) -> tuple[dict[str, float], list[Sample]]:
    """Runs the held-out split once with the averaged parameters; the keys are always the same.

    Metrics are means over batches, weighted by what their loss averages over; counts add up.

    Returns:
      {"heldout_NAME": value}, and on process 0 what the task spoke.

    Raises:
      InputError: an empty held-out split.
    """
    key = jax.random.fold_in(jax.random.key(program.config.seed), STREAM)
    totals: dict[str, Any] = {}
    weights, first = 0.0, None
    for index, rows in enumerate(heldout_batches(program)):
        records = rows.pop(RECORDS, None)
        count = program.loader.num_processes
        batch = partition.place_batch(rows, program.layout.mesh, num_processes=count)
        first = batch if first is None else first
        metrics = program.evaluate(state.smooth, batch, jax.random.fold_in(key, index))
        values = jax.device_get(metrics)
        weight = count_of(values)
        if weight is None:
            weight = _rows(program, records)
        for name, value in values.items():
            share = value if np.ndim(value) else value * float(weight)
            totals[name] = totals.get(name, 0.0) + share
        weights += float(weight)
    if first is None or not weights:
        raise InputError("the held-out split is empty; prepare one, or set eval_every=-1")
    arrays = {name: value for name, value in totals.items() if np.ndim(value)}
    means = {n: float(v) / weights for n, v in totals.items() if n not in arrays}
    task = program.config.task
    if arrays and isinstance(task, Summarizing):
        means |= task.summarize(arrays)
    return {f"heldout_{n}": v for n, v in means.items()}, _speak(program, state, first, key)


def heldout_batches(program: Program) -> Iterator[dict[str, np.ndarray]]:
    """The batches of this process, as many as every process has."""
    config, loader = program.config, program.loader
    dataset = config.data.dataset(
        "heldout", seed=config.seed, process=loader.process, num_processes=loader.num_processes
    )
    batches, count = iter(dataset), 0
    while not config.eval_batches or count < config.eval_batches:
        rows = next(batches, None)
        if not _all_have(rows is not None):
            return
        assert rows is not None
        yield dict(rows)
        count += 1


def _all_have(one: bool) -> bool:
    if jax.process_count() == 1:
        return one
    return bool(np.all(multihost_utils.process_allgather(np.asarray(one))))


def _rows(program: Program, records: np.ndarray | None) -> float:
    """Rows of the whole batch that hold a record."""
    if records is None:
        return float(program.config.data.batch_size)
    own = np.asarray([np.sum(np.any(np.reshape(records, (len(records), -1)) >= 0, axis=1))])
    if jax.process_count() == 1:
        return float(own[0])
    # Processes on one tensor axis read the same rows; the sum is too large for all alike.
    return float(np.sum(multihost_utils.process_allgather(own)))


def _speak(program: Program, state: TrainState, batch: Any, key: jax.Array) -> list[Sample]:
    if not program.config.samples:
        return []
    if jax.process_count() == 1:
        return program.config.task.samples(state.smooth, batch, key)
    params, rows = replicate(state.smooth, program.layout), replicate(batch, program.layout)
    return program.config.task.samples(params, rows, key) if jax.process_index() == 0 else []
