"""A run that is killed, asked to end, or cut in two processes ends with the same numbers."""

from __future__ import annotations

import dataclasses
import os
import random
import shlex
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
from tests.launch import slurm_programs
from tests.launch.conftest import Stage
from tests.train.toy_config import get_config

ROOT = Path(__file__).parent.parent.parent
DELAY_S = 0.004  # per record, so that there is time to kill in
TIMEOUT_S = 300
CLOCK = ("per_s", "data_wait", "mfu")  # what a row says of speed
SET = ["eval_every=-1", "checkpoint_every=2", "samples=False"]
TOY = "tests/train/toy_config.py"
FOUR_DEVICES = {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
}
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


def launch_two(workdir: Path, fields: str, assignments: list[str]) -> subprocess.Popen:
    """Two processes of four devices, started by the launcher as a user would."""
    program = workdir.parent / "bin" / "cosyjax"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cosyjax "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PROCESSES": "2",
        "PAUSE_S": "0",
        **FOUR_DEVICES,
    }
    words = ["launch/local.sh", "train", "--workdir", str(workdir)]
    words += ["--config", f"{TOY}:{fields}", "--set", *assignments]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def member(workdir: Path, process: int) -> int:
    """The process id of one process of a run."""
    words = f"\0--workdir\0{workdir}\0", f"\0--process\0{process}\0"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if all(part in command for part in words):
            return int(folder.name)
    raise AssertionError(f"process {process} does not run")


def finish(launcher: subprocess.Popen) -> str:
    """Waits for a run that ends well; returns what it said."""
    said = launcher.communicate(timeout=TIMEOUT_S)[0]
    assert launcher.returncode == 0, said
    return said


@pytest.mark.slow
def test_one_of_two_processes_asked_to_end_makes_both_save_and_end(tmp_path: Path) -> None:
    mesh = ["mesh.data=1", "mesh.fsdp=8", "eval_every=-1", "samples=False"]
    launcher = launch_two(tmp_path / "run", f"num_steps=4000,delay_s={DELAY_S}", mesh)
    wait_until(lambda: len(read_metrics(tmp_path / "run")) > 3, launcher)
    os.kill(member(tmp_path / "run", 1), signal.SIGTERM)
    assert "goes on from" not in finish(launcher)
    reached = read_metrics(tmp_path / "run")[-1]["step"]
    assert Checkpoints(tmp_path / "run").latest() == reached < 4000


TWO_STEPS = 60
TWO_FIELDS = f"num_steps={TWO_STEPS},delay_s={DELAY_S},single=False"
TWO_SET = ["mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2", "checkpoint_every=5", "eval_every=20"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("two") / "whole"
    finish(launch_two(workdir, TWO_FIELDS, [*TWO_SET, "samples=False"]))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_of_two_that_loses_one_comes_back_and_ends_with_the_same_numbers(
    tmp_path: Path, lost: int, undisturbed: Path
) -> None:
    cut, saved = tmp_path / "cut", tmp_path / "cut" / "checkpoints" / "10"
    launcher = launch_two(cut, TWO_FIELDS, [*TWO_SET, "samples=False"])
    wait_until(lambda: saved.is_dir() and saving(cut), launcher)
    os.kill(member(cut, lost), signal.SIGKILL)
    said = finish(launcher)
    assert "start 2 goes on from" in said and "resumed at step" in said
    assert_ended_as(undisturbed, cut)


@pytest.mark.slow
def test_a_slurm_job_of_two_tasks_goes_on_from_the_queue_with_the_same_numbers(
    tmp_path: Path, undisturbed: Path
) -> None:
    stage, cut = Stage(tmp_path), tmp_path / "cut"
    slurm_programs.set_up(stage)
    stage.program("cosyjax", f'cd {ROOT} && exec {sys.executable} -m cosyjax "$@"')
    words = ["train", "--workdir", str(cut), "--config", f"{TOY}:{TWO_FIELDS}"]
    words += ["--set", *TWO_SET, "samples=False"]
    launcher = stage.start("slurm.sh", *words, GPUS="2", **FOUR_DEVICES)
    wait_until(lambda: len(read_metrics(cut)) > 10, launcher)
    os.kill(int((tmp_path / "job100").read_text()), signal.SIGUSR1)
    said = "".join(launcher.communicate(timeout=TIMEOUT_S))
    assert launcher.returncode == 0, said
    assert "back to the queue" in said and "resumed at step" in said
    assert len(stage.calls("cosyjax")) == 4
    assert_ended_as(undisturbed, cut)


def assert_ended_as(wanted: Path, workdir: Path) -> None:
    """Two finished runs have the same parameters and rows of metrics."""
    config = get_config(TWO_STEPS, DELAY_S, single=False)
    config = dataclasses.replace(config, mesh=MeshConfig(1, 1, 1))
    ends = [train(config, path, tell=quiet) for path in (workdir, wanted)]
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(a, b)
    assert computed(workdir) == computed(wanted)
    assert [row["step"] for row in computed(workdir)] == list(range(1, TWO_STEPS + 1))


def computed(workdir: Path) -> list[dict[str, float]]:
    """The rows of metrics without what the clock says."""
    rows = read_metrics(workdir)
    return [{n: x for n, x in row.items() if not n.endswith(CLOCK)} for row in rows]


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_device(tmp_path: Path) -> None:
    mesh = ["mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2", "eval_every=10", "samples=True"]
    finish(launch_two(tmp_path / "two", "num_steps=20,single=False", mesh))
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
