"""Every stage trains by the command of configs/smoke.py, and the five make a bundle that speaks."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import cosyjax
from cosyjax.cli import main

CONFIG = Path(__file__).parents[2] / "configs" / "smoke.py"
STAGES = ("tokenizer", "speaker", "lm", "flow", "vocoder")


def train(stage: str, workdir: Path, *settings: str) -> list[dict]:
    """Runs the command and returns the lines of metrics.jsonl."""
    words = ["train", "--config", f"{CONFIG}:stage={stage}", "--workdir", str(workdir)]
    assert main([*words, *(word for s in settings for word in ("--set", s))]) == 0
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_the_config_of_a_stage_reads_the_data_of_the_repository(stage: str) -> None:
    config = runpy.run_path(str(CONFIG))["get_config"](stage=stage)
    batch = next(iter(config.data.dataset("train", seed=0)))
    assert (batch["records"] >= 0).any()


def test_the_language_model_learns_by_the_command(tmp_path) -> None:
    lines = train("lm", tmp_path, "num_steps=12", "eval_every=6", "optimizer.peak_lr=0.01")
    held_out = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    assert len(held_out) >= 2 and held_out[-1] < held_out[0]


@pytest.mark.slow  # five models to compile
def test_five_trained_stages_make_a_bundle_that_speaks(tmp_path, prompt_wav) -> None:
    for stage in STAGES:
        losses = [line["loss"] for line in train(stage, tmp_path / stage, "num_steps=4")]
        assert np.all(np.isfinite(losses)) and len(losses) == 4
    runs = [str(tmp_path / stage) for stage in STAGES]
    bundle = tmp_path / "bundle"
    assert main(["bundle", *runs, str(bundle), "--tokenizer", str(tokenizer_folder())]) == 0
    tts = cosyjax.load(bundle, dtype="float32")
    voice = tts.clone(prompt_wav, "A gliding tone.")
    assert tts.synthesize("Hello.", voice).seconds > 0


def tokenizer_folder() -> Path:
    """The text tokenizer beside the smoke data."""
    return Path(__file__).parents[1] / "data" / "tokenizer"
