"""Lines, files and pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.train import plots, report
from cosyjax.train.meter import Meter
from cosyjax.train.task import Cost
from tests.train.toy_config import get_config

ROW = {"step": 3, "loss": 1.5, "lr": 0.1}


def test_what_is_not_known_is_a_dash() -> None:
    line = report.progress_line(ROW, 10)
    assert line.startswith("step 3/10  loss 1.5000")
    assert "- tokens/s" in line and "MFU -" in line and "- left" in line


def test_time_left_follows_from_the_rate() -> None:
    assert "14 s left" in report.progress_line({**ROW, "steps_per_s": 0.5}, 10)
    assert "2.8 h left" in report.progress_line({**ROW, "steps_per_s": 0.01}, 103)


def test_rows_after_the_step_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / report.METRICS).write_text("\n".join([*lines, '{"step": 4, "lo']))
    report.cut_metrics(tmp_path, 2)
    assert (tmp_path / report.METRICS).read_text() == "\n".join(lines[:2]) + "\n"


def test_tensorboard_gets_every_row(tmp_path: Path) -> None:
    config = get_config()
    config = type(config)(**{**vars(config), "tensorboard": True})
    output = report.Report(tmp_path, config, lambda line: None)
    output.log(ROW)
    output.close()
    assert sum(p.stat().st_size for p in (tmp_path / "tensorboard").iterdir()) > 50


def test_a_logger_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    config = get_config()
    config = type(config)(**{**vars(config), "wandb": "project"})
    with pytest.raises(InputError, match="pip install wandb"):
        report.Report(tmp_path, config, lambda line: None)


def test_silence_has_a_spectrogram(tmp_path: Path) -> None:
    plots.plot_spectrogram(np.zeros(100, np.float32), 16_000, tmp_path / "silence.png")
    assert (tmp_path / "silence.png").stat().st_size > 1000


def test_the_meter_reads_rates_and_forgets() -> None:
    meter = Meter(peak=None)
    for _ in range(2):
        meter.add(Cost(flops=1.0, tokens=100.0, audio_s=36.0))
    rates = meter.read()
    assert rates["audio_hours_per_s"] * 1e4 == pytest.approx(rates["tokens_per_s"])
    assert "mfu" not in rates and meter.read() == {}
