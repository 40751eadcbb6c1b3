"""launch/scaling_laws.sh: which runs it starts, and the whole ladder in two steps a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosyjax.eval.scaling.table import COLUMNS, read_points

HOME = Path(__file__).parents[2]
SCRIPT = HOME / "launch" / "scaling_laws.sh"
DATA = HOME / "tests" / "data" / "smoke"
# In the place of the program: notes its words, fails at depth 3 while BROKEN is set, adds rows.
PROGRAM = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
    *depth=3,*) [ -z "${BROKEN:-}" ] || exit 2 ;;
    "scaling add"*)
        [ -f "$4" ] || echo COLUMNS > "$4"
        [[ $3 =~ d([0-9]+)_c ]]
        echo "${BASH_REMATCH[1]},$6" >> "$4" ;;
esac
"""


def start(work: Path, *words: str, path: Path | None = None, **variables: str):
    """Runs the script on two sizes and two budgets; `path` holds the program."""
    environment = {"DEPTHS": "2 3", "BUDGETS": "1e12 3e12", **variables}
    environment["PATH"] = os.pathsep.join([str(path or work), os.environ["PATH"]])
    return subprocess.run(
        [SCRIPT, str(DATA), str(work / "out"), *words],
        # One device: a batch of two rows does not divide among the eight of the tests.
        env={**os.environ, **environment, "CALLS": str(work / "calls"), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    program = tmp_path / "cosyjax"
    program.write_text(PROGRAM.replace("COLUMNS", ",".join(COLUMNS)))
    program.chmod(0o755)
    return tmp_path


def calls(work: Path, verb: str) -> list[str]:
    """What the program was told, without and up to the workdir."""
    path = work / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(verb)]


def sizes(work: Path) -> list[str]:
    """depth and budget of the trainings that were started."""
    return [line.split("lm_scaling.py:")[1].split()[0] for line in calls(work, "train")]


ALL = [f"depth={depth},flops={budget}" for budget in ("1e12", "3e12") for depth in (2, 3)]


def test_every_size_runs_with_every_budget_and_then_the_table_is_fitted(work: Path):
    done = start(work, "--set", "seed=1", CONFIG="head=16", FIT="--bootstrap 5")
    assert done.returncode == 0, done.stderr
    assert sizes(work) == [f"{name},head=16" for name in ALL]
    assert all("smoke'}]" in line and "--set seed=1" in line for line in calls(work, "train"))
    assert len(calls(work, "scaling add")) == 4
    (fit,) = calls(work, "scaling fit")
    assert "out/table.csv" in fit and fit.endswith("--bootstrap 5")


def test_a_dry_run_prints_the_missing_runs_and_starts_nothing(work: Path):
    (work / "out").mkdir()
    (work / "out" / "table.csv").write_text(",".join(COLUMNS) + "\n2,1000000000000.0\n")
    done = start(work, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if " train " in line]
    assert len(told) == 3 and "depth=3\\,flops=1e12 " in told[0]
    assert done.stdout.splitlines()[-1].startswith("cosyjax scaling fit")
    assert not (work / "calls").exists() and not (work / "out" / "runs").exists()


def test_rows_of_the_table_are_not_run_again(work: Path):
    start(work)
    lines = (work / "out" / "table.csv").read_text().splitlines()
    (work / "out" / "table.csv").write_text("\n".join(lines[:-1]) + "\n")
    (work / "calls").unlink()
    assert start(work).returncode == 0
    assert sizes(work) == ALL[-1:]


def test_a_run_that_fails_is_named_and_keeps_nobody_waiting(work: Path):
    done = start(work, BROKEN="1")
    assert done.returncode == 1 and "runs/d3_c1e12" in done.stderr
    assert sizes(work) == ALL and not calls(work, "scaling fit")
    assert len(calls(work, "scaling add")) == 2
    (work / "calls").unlink()
    assert start(work).returncode == 0
    assert sizes(work) == [ALL[1], ALL[3]] and calls(work, "scaling fit")


def test_workers_share_the_runs_and_the_last_one_fits(work: Path):
    first = start(work, "--worker", "0", "--workers", "2")
    assert first.returncode == 0 and "2 runs are missing" in first.stdout
    assert sizes(work) == ALL[::2] and not calls(work, "scaling fit")
    last = start(
        work, SLURM_ARRAY_TASK_ID="8", SLURM_ARRAY_TASK_MIN="7", SLURM_ARRAY_TASK_COUNT="2"
    )
    assert last.returncode == 0, last.stderr
    assert sorted(sizes(work)) == sorted(ALL) and calls(work, "scaling fit")


@pytest.mark.parametrize("words", [("--worker", "2", "--workers", "2"), ("--worker", "x")])
def test_a_worker_that_does_not_exist_is_refused(work: Path, words: tuple[str, ...]):
    done = start(work, *words)
    assert done.returncode == 2 and "numbered from 0" in done.stderr and not calls(work, "train")


def test_the_script_passes_shellcheck():
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([program, SCRIPT], check=True)


@pytest.mark.slow
def test_a_rehearsal_trains_two_steps_of_every_run_and_fills_the_table(tmp_path: Path):
    program = tmp_path / "cosyjax"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cosyjax "$@"\n')
    program.chmod(0o755)
    config = "head=8,rows=2,length=256,text_vocab=400"
    done = start(tmp_path, REHEARSE="1", CONFIG=config, DEPTHS="1 2", BUDGETS="1e11")
    assert done.returncode == 0, done.stderr
    points = read_points(tmp_path / "out" / "rehearsal" / "table.csv")
    assert points.depth == (1, 2) and points.tokens == (1024.0, 1024.0)
    assert 3.0 < min(points.loss) < max(points.loss) < 9.0
    assert "6 runs, 3 sizes and 3 budgets" in done.stderr  # the fit, which has too few
