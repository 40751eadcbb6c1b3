"""The table of a scaling law: one row per finished run, as CSV that several workers append to."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import math
from collections.abc import Sequence
from pathlib import Path

from cosyjax.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Row:
    """One run. What is counted, and why so, stands in docs/scaling.md."""

    depth: int
    budget_flops: float  # asked for; runs of one budget are compared
    width: int
    params: int
    non_embedding_params: int  # without the tables that are only looked up; with the head
    tokens: int  # positions that were computed, text and speech, repeats included
    speech_tokens: int  # speech tokens among them
    flops: float  # forward and backward; attention and head included
    flops_6nd: float  # 6 non_embedding_params tokens
    steps: int
    batch_tokens: int  # positions of a batch
    peak_lr: float
    loss_per_speech_token: float  # held out, nats
    loss_per_pair: float  # held out, nats of a text-speech pair's speech and ends
    epochs: float  # how often a record was read on average
    seconds: float  # of the steps
    commit: str


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
SIZES = ("non_embedding_params", "params")  # what N may be
LOSSES = ("loss_per_speech_token", "loss_per_pair")  # what L may be
NEEDED = ("budget_flops", "tokens", "flops")  # beside N and L


@dataclasses.dataclass(frozen=True)
class Points:
    """What is fitted: one entry per run, and equally long tuples."""

    size: tuple[float, ...]  # N, parameters
    tokens: tuple[float, ...]  # D, positions
    loss: tuple[float, ...]  # L, nats
    budget: tuple[float, ...]  # C, floating-point operations asked for
    flops: tuple[float, ...]  # that were computed
    depth: tuple[int, ...] = ()  # layers; empty where the table does not say
    speech_share: float | None = None  # speech tokens per position; None where it does not say

    def __len__(self) -> int:
        return len(self.size)

    def take(self, index: Sequence[int]) -> Points:
        """The runs of these numbers; a number may come more than once."""
        pick = lambda values: tuple(values[i] for i in index)
        return dataclasses.replace(
            self,
            size=pick(self.size),
            tokens=pick(self.tokens),
            loss=pick(self.loss),
            budget=pick(self.budget),
            flops=pick(self.flops),
            depth=pick(self.depth) if self.depth else (),
        )

    @property
    def budgets(self) -> list[float]:
        """The budgets, smallest first."""
        return sorted(set(self.budget))


def append_row(path: Path, row: Row) -> None:
    """Appends a run; writes the head where the table is new. Workers wait for each other.

    Raises:
      InputError: the run is there already, or the table has other columns.
    """
    with path.open("a+", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        file.seek(0)
        lines = list(csv.reader(file))
        if lines and tuple(lines[0]) != COLUMNS:
            raise InputError(f"{path}: its columns are {lines[0]}; {list(COLUMNS)} are needed")
        key = (row.depth, row.budget_flops)
        if any((int(line[0]), float(line[1])) == key for line in lines[1:]):
            raise InputError(
                f"{path} holds a run of depth {row.depth} and {row.budget_flops:g} FLOPs already; "
                "remove its line to put another in its place"
            )
        writer = csv.writer(file, lineterminator="\n")
        if not lines:
            writer.writerow(COLUMNS)
        writer.writerow(dataclasses.astuple(row))


def read_points(path: Path, size: str = SIZES[0], loss: str = LOSSES[0]) -> Points:
    """Reads a table for a fit. Further columns are ignored.

    Args:
      path: CSV with a head.
      size: the column of N, one of SIZES.
      loss: the column of L, one of LOSSES.

    Raises:
      InputError: no such file, a column that is missing, a value that is no positive number, or
        two rows of one size and budget; the message names row and column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; launch/scaling_laws.sh makes one")
    for name, allowed in ((size, SIZES), (loss, LOSSES)):
        if name not in allowed:
            raise InputError(f"no column {name!r} can be fitted; {nearest(name, allowed)}")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        rows = list(reader)
    for name in (size, loss, *NEEDED):
        if name not in columns:
            raise InputError(f"{path} has no column {name!r}; {nearest(name, columns)}")
    read = lambda name: tuple(_positive(path, i, name, row[name]) for i, row in enumerate(rows))
    points = Points(read(size), read("tokens"), read(loss), read("budget_flops"), read("flops"))
    _check_distinct(path, points, size)
    if "depth" in columns:
        points = dataclasses.replace(points, depth=tuple(int(x) for x in read("depth")))
    if "speech_tokens" in columns and rows:
        share = sum(read("speech_tokens")) / sum(points.tokens)
        points = dataclasses.replace(points, speech_share=share)
    return points


def _positive(path: Path, index: int, name: str, text: str | None) -> float:
    where = f"{path}, row {index + 1}, {name}"
    try:
        value = float(text or "")
    except ValueError:
        raise InputError(f"{where}: {text!r} is no number") from None
    if not math.isfinite(value) or value <= 0:
        raise InputError(
            f"{where}: {text} is not above 0 and finite; remove the row, and run it again"
        )
    return value


def _check_distinct(path: Path, points: Points, size: str) -> None:
    seen: dict[tuple[float, float], int] = {}
    for index, key in enumerate(zip(points.size, points.budget), start=1):
        if key in seen:
            raise InputError(
                f"{path}, rows {seen[key]} and {index}: both have {size}={key[0]:g} and "
                f"budget_flops={key[1]:g}; a run counts once, so remove one"
            )
        seen[key] = index
