"""A run that is killed, asked to end, or cut in two processes ends with the same numbers."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.train.checkpoint import Checkpoints
from cosyjax.train.config import MeshConfig, TrainConfig
from cosyjax.train.loop import train
from cosyjax.train.report import read_metrics
from tests.train.toy_config import get_config

ROOT = Path(__file__).parent.parent.parent
DELAY_S = 0.004  # per record, so that there is time to kill in
TIMEOUT_S = 300
SET = ["eval_every=-1", "checkpoint_every=2", "samples=False"]
quiet = lambda line: None


def run_config(num_steps: int) -> TrainConfig:
    return dataclasses.replace(
        get_config(num_steps, DELAY_S), eval_every=-1, checkpoint_every=2, samples=False
    )


def launch(workdir: Path, num_steps: int, *extra: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "cosyjax", "train", "--workdir", str(workdir), "--set", *SET]
    config = f"tests/train/toy_config.py:num_steps={num_steps},delay_s={DELAY_S}"
    return subprocess.Popen(
        [*words, "--config", config, *extra],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(done: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not done() and process.poll() is None:
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.001)


def saving(workdir: Path) -> bool:
    """A checkpoint after step 4 is being written."""
    names = [p.name for p in (workdir / "checkpoints").glob("*tmp*")]
    return any(int(name.split(".")[0]) > 4 for name in names if name.split(".")[0].isdigit())


def assert_same(workdir: Path, state, wanted) -> None:
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    rows = read_metrics(workdir)
    assert [(r["step"], r["loss"]) for r in rows] == [(r["step"], r["loss"]) for r in wanted[1]]


def test_killed_in_a_save_and_then_asked_to_end_it_ends_with_the_same_numbers(
    tmp_path: Path,
) -> None:
    num_steps = 400
    killed = launch(tmp_path / "cut", num_steps)
    wait_until(lambda: saving(tmp_path / "cut"), killed)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    asked = launch(tmp_path / "cut", num_steps)
    count = len(read_metrics(tmp_path / "cut"))
    wait_until(lambda: len(read_metrics(tmp_path / "cut")) > count + 3, asked)
    asked.send_signal(signal.SIGTERM)
    said = asked.communicate(timeout=TIMEOUT_S)[0]
    assert asked.returncode == 0, said
    assert "resumed at step" in said
    reached = read_metrics(tmp_path / "cut")[-1]["step"]
    assert Checkpoints(tmp_path / "cut").latest() == reached < num_steps
    config = dataclasses.replace(run_config(int(reached) + 5), checkpoint_every=0)
    state = train(config, tmp_path / "cut", tell=quiet)
    wanted = train(config, tmp_path / "whole", tell=quiet)
    assert_same(tmp_path / "cut", state, (wanted, read_metrics(tmp_path / "whole")))


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace(tmp_path: Path) -> None:
    num_steps, draw = 600, random.Random(0)
    for _ in range(10):
        process = launch(tmp_path / "cut", num_steps)
        before = len(read_metrics(tmp_path / "cut"))
        wait_until(lambda: len(read_metrics(tmp_path / "cut")) != before, process)
        time.sleep(draw.uniform(0.0, 1.5))
        process.kill()
        process.wait()
    state = train(run_config(num_steps), tmp_path / "cut", tell=quiet)
    wanted = train(run_config(num_steps), tmp_path / "whole", tell=quiet)
    assert_same(tmp_path / "cut", state, (wanted, read_metrics(tmp_path / "whole")))


def launch_two(workdir: Path, fields: str, assignments: list[str]) -> list[subprocess.Popen]:
    import portpicker

    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-m", "cosyjax", "train", "--workdir", str(workdir)]
    words += ["--config", f"tests/train/toy_config.py:{fields}", "--set", *assignments]
    words += ["--coordinator", f"127.0.0.1:{portpicker.pick_unused_port()}"]
    return [
        subprocess.Popen(
            [*words, "--num-processes", "2", "--process", str(i)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_one_of_two_processes_asked_to_end_makes_both_save_and_end(tmp_path: Path) -> None:
    mesh = ["mesh.data=1", "mesh.fsdp=8", "eval_every=-1", "samples=False"]
    processes = launch_two(tmp_path, f"num_steps=4000,delay_s={DELAY_S}", mesh)
    wait_until(lambda: len(read_metrics(tmp_path)) > 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert Checkpoints(tmp_path).latest() == read_metrics(tmp_path)[-1]["step"]


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_device(tmp_path: Path) -> None:
    mesh = ["mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2", "eval_every=10", "samples=True"]
    processes = launch_two(tmp_path / "two", "num_steps=20,single=False", mesh)
    said = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    config = dataclasses.replace(get_config(20, single=False), eval_every=10)
    wanted = train(config, tmp_path / "one", tell=quiet)
    # The finished run of two processes, restored here onto one device.
    state = train(
        dataclasses.replace(config, mesh=MeshConfig(1, 1, 1)), tmp_path / "two", tell=quiet
    )
    rows, ours = read_metrics(tmp_path / "two"), read_metrics(tmp_path / "one")
    for name in ("loss", "heldout_loss"):
        got, want = ([r[name] for r in group if name in r] for group in (rows, ours))
        np.testing.assert_allclose(got, want, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
