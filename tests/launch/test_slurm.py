"""Jobs of Slurm: what is submitted, and how a job goes on after a death or at its time limit."""

from __future__ import annotations

import os
import signal

import pytest

from tests.launch import slurm_programs
from tests.launch.conftest import Stage, alive, wait_until

TRAIN = ("train", "--config", "c.py", "--workdir", "run", "--set", "data.x=[{'a': 1}]")
# Saves at SIGTERM; the second start of a run finds the checkpoint and ends.
SAVES = """
if [ -d run/checkpoints/6 ]; then exit 0; fi
trap 'mkdir -p run/checkpoints/6; exit 0' TERM
touch "ready$SLURM_PROCID"
while :; do sleep 0.02; done
"""


@pytest.fixture()
def slurm(stage: Stage) -> Stage:
    slurm_programs.set_up(stage)
    return stage


def job(stage: Stage) -> int:
    return int((stage.folder / "job100").read_text())


def ready(stage: Stage) -> bool:
    """Both tasks catch signals, and Slurm knows their numbers."""
    names = [stage.folder / f"ready{i}" for i in range(2)]
    return all(name.exists() for name in names) and len(stage.pids()) == 2


def test_a_dry_run_prints_what_would_be_submitted(slurm: Stage) -> None:
    ran = slurm.run("slurm.sh", "-n", *TRAIN, NODES="4", SAVE_S="120")
    assert ran.returncode == 0 and slurm.calls() == []
    for word in ("--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue"):
        assert f" {word} " in ran.stdout
    assert " --signal=B:USR1@120 " in ran.stdout and "slurm_job.sh" in ran.stdout
    ran = slurm.run("slurm.sh", "-n", "prepare", "in", "out", PROCESSES="32")
    assert " --array=0-31 " in ran.stdout and "gpus" not in ran.stdout


def test_words_reach_the_tasks_as_they_were_given(slurm: Stage) -> None:
    slurm.program("cosyjax", "exit 0")
    ran = slurm.run("slurm.sh", *TRAIN, GPUS="2", NODES="2")
    assert ran.returncode == 0, ran.stderr
    assert slurm.calls("cosyjax") == [["cosyjax", *TRAIN]] * 4
    assert slurm.calls("srun")[0][1] == "--kill-on-bad-exit=1"


def test_when_a_task_is_killed_all_tasks_start_again_in_the_same_job(slurm: Stage) -> None:
    body = """
    if [ -d run/checkpoints/4 ]; then exit 0; fi
    [ "$SLURM_PROCID" = 1 ] && mkdir -p run/checkpoints/4 && kill -KILL $$
    exec sleep 1000"""
    slurm.program("cosyjax", body)
    ran = slurm.run("slurm.sh", *TRAIN, GPUS="2")
    assert ran.returncode == 0 and "status 137; start 2 goes on from 4" in ran.stderr
    assert len(slurm.calls("srun")) == 2 and len(slurm.calls("sbatch")) == 1
    assert not slurm.calls("scontrol") and not any(map(alive, slurm.pids()))


def test_near_its_time_limit_a_job_saves_and_goes_back_to_the_queue(slurm: Stage) -> None:
    slurm.program("cosyjax", SAVES)
    launcher = slurm.start("slurm.sh", *TRAIN, GPUS="2")
    wait_until(lambda: ready(slurm))
    os.kill(job(slurm), signal.SIGUSR1)
    said = launcher.communicate(timeout=30)[1]
    assert launcher.returncode == 0 and "back to the queue" in said
    assert slurm.calls("scontrol") == [["scontrol", "requeue", "100"]]
    assert len(slurm.calls("cosyjax")) == 4 and not any(map(alive, slurm.pids()))


def test_a_job_that_slurm_ends_does_not_queue_itself_again(slurm: Stage) -> None:
    slurm.program("cosyjax", SAVES)
    launcher = slurm.start("slurm.sh", *TRAIN, GPUS="2")
    wait_until(lambda: ready(slurm))
    os.kill(job(slurm), signal.SIGTERM)
    for pid in slurm.pids():
        os.kill(pid, signal.SIGTERM)
    launcher.communicate(timeout=30)
    assert launcher.returncode == 0 and not slurm.calls("scontrol")
    assert (slurm.folder / "run" / "checkpoints" / "6").is_dir()


def test_data_is_prepared_by_an_array_of_tasks(slurm: Stage) -> None:
    slurm.program("cosyjax", "exit 0")
    ran = slurm.run("slurm.sh", "prepare", "in", "out", "--parts", "6", PROCESSES="3")
    assert ran.returncode == 0, ran.stderr
    words = ["cosyjax", "prepare", "in", "out", "--parts", "6", "--process"]
    wanted = [[*words, str(i), "--num-processes", "3"] for i in range(3)]
    assert slurm.calls("cosyjax") == wanted
