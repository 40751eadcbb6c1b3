"""What people look at: a progress line, metrics.jsonl, and TensorBoard or wandb on request."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cosyjax.config import to_dict
from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file
from cosyjax.io.audio import write_audio
from cosyjax.train import plots
from cosyjax.train.config import TrainConfig
from cosyjax.train.task import Sample

METRICS = "metrics.jsonl"
Tell = Callable[[str], None]


class Writer(NamedTuple):
    """Where else rows go."""

    write: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]


class Report:
    """Writes what a run says. Only process 0 has one."""

    def __init__(self, workdir: Path, config: TrainConfig, tell: Tell) -> None:
        self.workdir, self._config, self._tell = workdir, config, tell
        self._last_line_s = -math.inf
        self._writers = _open_writers(workdir, config)
        if not plots.available():
            tell("no pictures: matplotlib is not installed (pip install 'cosyjax[plot]')")

    def log(self, row: Mapping[str, float]) -> None:
        """Appends a step's row to metrics.jsonl and passes it on."""
        with (self.workdir / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        for writer in self._writers:
            writer.write(row)

    def close(self) -> None:
        """Writes out what the loggers hold back."""
        for writer in self._writers:
            writer.close()

    def show(self, row: Mapping[str, float], force: bool = False) -> None:
        """Prints the progress line, not more than once a second."""
        now = time.monotonic()
        if force or now - self._last_line_s >= 1.0:
            self._last_line_s = now
            self._tell(progress_line(row, self._config.num_steps))

    def evaluated(self, step: int, samples: list[Sample]) -> None:
        """Draws the curves and writes what the task spoke."""
        folder = self.workdir / "samples" / f"step-{step}"
        if samples:
            folder.mkdir(parents=True, exist_ok=True)
        for sample in samples:
            write_audio(folder / f"{sample.name}.wav", sample.wav, sample.sample_rate_hz)
            if plots.available():
                path = folder / f"{sample.name}.png"
                plots.plot_spectrogram(sample.wav, sample.sample_rate_hz, path)
        if plots.available():
            plots.plot_curves(read_metrics(self.workdir), self.workdir / "curves.png")


def progress_line(row: Mapping[str, float], num_steps: int) -> str:
    """Says a row in one line; '-' for what is not known."""
    step = int(row["step"])
    rate = row.get("steps_per_s")
    share = lambda name: f"{100 * row[name]:.1f} %" if name in row else "-"
    parts = [
        f"step {step}/{num_steps}",
        f"loss {row['loss']:.4f}" if "loss" in row else "",
        f"held-out {row['heldout_loss']:.4f}" if "heldout_loss" in row else "",
        f"{row['tokens_per_s']:,.0f} tokens/s" if row.get("tokens_per_s") else "- tokens/s",
        f"{row.get('audio_hours_per_s', 0.0):.4f} audio h/s",
        f"MFU {share('mfu')}",
        f"data {share('data_wait')}",
        f"{_duration((num_steps - step) / rate)} left" if rate else "- left",
    ]
    return "  ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = workdir / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_metrics(workdir: Path, step: int) -> None:
    """Drops the rows after `step`: a resumed run writes them again."""
    if not (workdir / METRICS).exists():
        return
    rows = [row for row in read_metrics(workdir) if row["step"] <= step]
    with atomic_file(workdir / METRICS) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))


def set_aside(workdir: Path, names: tuple[str, ...]) -> Path | None:
    """Moves a run's files into workdir/old-N; returns that folder, None where there were none."""
    found = [workdir / name for name in names if (workdir / name).exists()]
    if not found:
        return None
    number = 1
    while (workdir / f"old-{number}").exists():
        number += 1
    folder = workdir / f"old-{number}"
    folder.mkdir()
    for path in found:
        shutil.move(path, folder / path.name)
    return folder


def _open_writers(workdir: Path, config: TrainConfig) -> list[Writer]:
    writers = []
    if config.tensorboard:
        writers.append(_tensorboard(workdir / "tensorboard"))
    if config.wandb:
        writers.append(_wandb(workdir, config))
    return writers


def _tensorboard(folder: Path) -> Writer:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise InputError(
            "tensorboard=True needs tensorboardX: pip install 'cosyjax[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(folder))

    def write(row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, row["step"])

    return Writer(write, writer.close)


def _wandb(workdir: Path, config: TrainConfig) -> Writer:
    try:
        import wandb
    except ImportError as error:
        raise InputError(f"wandb={config.wandb!r} needs wandb: pip install wandb") from error
    # One name per workdir, so that a resumed run goes on in the same curves.
    run = wandb.init(
        project=config.wandb,
        id=workdir.absolute().name,
        resume="allow",
        config=to_dict(config),
        dir=str(workdir),
    )
    log = lambda row: run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])
    return Writer(log, run.finish)
