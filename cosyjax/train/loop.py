"""The loop that every stage runs in: batches, steps, evaluations, checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils

from cosyjax.errors import InputError
from cosyjax.io.mounts import check_mounted
from cosyjax.train import partition, report
from cosyjax.train.checkpoint import Checkpoints
from cosyjax.train.config import TrainConfig
from cosyjax.train.evaluate import RECORDS, evaluate
from cosyjax.train.finite import check_finite
from cosyjax.train.meter import Meter, peak_flops
from cosyjax.train.profile import Profile
from cosyjax.train.program import Program, make_program
from cosyjax.train.start import OWN_FILES, Start, find_start
from cosyjax.train.state import TrainState
from cosyjax.train.stop import stop_signal
from cosyjax.train.task import Metrics, Sample


class Pending(NamedTuple):
    """A step whose metrics are not read yet: the device may still be at it."""

    step: int
    metrics: Metrics
    records: np.ndarray | None
    shapes: dict[str, tuple[int, ...]]


def train(
    config: TrainConfig, workdir: Path, *, resume: bool = True, tell: report.Tell = print
) -> TrainState:
    """Trains until `num_steps` or SIGTERM; both leave a checkpoint of the last step.

    Args:
      config: the run.
      workdir: folder for checkpoints, metrics.jsonl, curves.png and samples; made if absent.
      resume: go on from the workdir's last checkpoint; otherwise its files are moved aside.
      tell: prints a line, on process 0.

    Raises:
      InputError: a config, mesh, data or workdir that does not fit; a loss that is not finite; a
        full disk.
    """
    first = jax.process_index() == 0
    tell = tell if first else (lambda line: None)
    program = make_program(config)
    tell(program.table)
    with stop_signal() as stopping:
        _prepare(workdir, config, resume, tell)
        with _checkpoints(workdir, config) as checkpoints:
            start = find_start(program, workdir, checkpoints, tell)
            if start.step >= config.num_steps:
                tell(f"step {start.step} of {config.num_steps}: nothing left to do")
                return start.state
            output = None
            if first:
                report.cut_metrics(workdir, start.step)
                output = report.Report(workdir, config, tell)
            return Run(program, start, checkpoints, output, workdir).until_end(stopping)


class Run:
    """The moving parts of a run: state, data iterator, meter, and the step not yet read."""

    def __init__(
        self,
        program: Program,
        start: Start,
        checkpoints: Checkpoints,
        output: report.Report | None,
        workdir: Path,
    ) -> None:
        self._program, self._config = program, program.config
        self._state, self._iterator, self._seed, self._step = start
        self._checkpoints, self._output, self._workdir = checkpoints, output, workdir
        self._meter, self._warm = Meter(peak_flops()), False
        self._pending: Pending | None = None
        best = checkpoints.best()
        self._best = best[1] if best else float("inf")

    def until_end(self, stopping: Callable[[int], bool]) -> TrainState:
        """Runs; see `train`."""
        profile, stop = Profile(self._config.profile_steps, self._workdir), False
        try:
            while self._step < self._config.num_steps and not stop:
                profile.at(self._step, self._state)
                before = self._advance()
                stop = stopping(self._step)
                if before is not None:
                    self._log(self._read(before))
                if stop or self._evaluates() or self._saves():
                    self._finish(stop)
        finally:
            profile.close(self._state)
            if self._output is not None:
                self._output.close()
        self._checkpoints.wait()
        return self._state

    def _advance(self) -> Pending | None:
        """Starts the next step; returns the one before, which the device is through with soon."""
        start, before = time.perf_counter(), self._pending
        rows = _next_rows(self._iterator, self._step)
        records = rows.pop(RECORDS, None)
        batch = partition.place_batch(
            rows,
            self._program.layout.mesh,
            num_processes=self._program.loader.num_processes,
            accumulate=self._config.accumulate,
        )
        if before is None or _is_ready(before.metrics["loss"]):
            self._meter.waited(time.perf_counter() - start)
        self._state, metrics = self._program.step(self._state, batch)
        self._step += 1
        shapes = {name: x.shape for name, x in batch.items()}
        self._pending = Pending(self._step, metrics, records, shapes)
        return before

    def _read(self, done: Pending) -> dict[str, float]:
        """Waits for a step, and checks and counts it."""
        values = {name: float(x) for name, x in jax.device_get(done.metrics).items()}
        check_finite(done.step, values, done.records, self._config.data, self._workdir)
        if self._warm:
            self._meter.add(self._config.task.cost(done.shapes))
        else:
            self._warm = True
            self._meter.restart()
        return {"step": done.step, **values}

    def _log(self, row: dict[str, float], force: bool = False) -> None:
        step = int(row["step"])
        if self._output is None or not (force or step % self._config.log_every == 0):
            return
        row |= self._meter.read()
        self._output.log(row)
        self._output.show(row, force)

    def _finish(self, stop: bool) -> None:
        """Evaluates and saves after a step whose metrics have been read: nothing bad is kept."""
        assert self._pending is not None, "a step was just started"
        row = self._read(self._pending)
        self._pending = None
        row |= self._meter.read()
        start = time.perf_counter()
        samples: list[Sample] = []
        heldout: float | None = None
        if self._evaluates():
            values, samples = evaluate(self._program, self._state)
            heldout = values["heldout_loss"]
            row |= values
        self._log(row, force=heldout is not None or stop)
        if heldout is not None and self._output is not None:
            self._output.evaluated(self._step, samples)
        if stop or self._saves() or (heldout is not None and heldout < self._best):
            self._save(heldout)
        self._best = min(self._best, self._best if heldout is None else heldout)
        self._meter.paused(time.perf_counter() - start)

    def _save(self, heldout_loss: float | None) -> None:
        self._checkpoints.save(
            self._step,
            self._state,
            self._iterator,
            self._config,
            data_seed=self._seed,
            heldout_loss=heldout_loss,
        )

    def _saves(self) -> bool:
        every = self._config.checkpoint_every
        return self._step == self._config.num_steps or bool(every and self._step % every == 0)

    def _evaluates(self) -> bool:
        every = self._config.eval_every
        last = self._step == self._config.num_steps
        return every >= 0 and (last or bool(every and self._step % every == 0))


def _is_ready(x: Any) -> bool:
    return x.is_ready()


def _next_rows(iterator: grain.DatasetIterator, step: int) -> dict[str, np.ndarray]:
    rows = next(iterator, None)
    if rows is None:
        raise InputError(
            f"the training data ended after {step} steps: the train split has fewer records than "
            "a batch, or its pipeline does not repeat"
        )
    return dict(rows)


def _prepare(workdir: Path, config: TrainConfig, resume: bool, tell: report.Tell) -> None:
    """Makes the workdir; process 0 moves an old run aside while the others wait."""
    check_mounted(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file; give a folder")
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        moved = None if resume else report.set_aside(workdir, OWN_FILES)
        if moved:
            tell(f"the run before lies in {moved}")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir")


@contextlib.contextmanager
def _checkpoints(workdir: Path, config: TrainConfig) -> Iterator[Checkpoints]:
    kept = {"keep_last": config.keep_last, "keep_best": config.keep_best}
    checkpoints = Checkpoints(workdir, **kept, clean=True)
    try:
        yield checkpoints
    except BaseException:
        # What went wrong matters more than a save that fails beside it.
        with contextlib.suppress(Exception):
            checkpoints.close()
        raise
    checkpoints.close()
