"""Every script under launch/: what shellcheck says, and a header that tells its use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.conftest import LAUNCH, Stage

SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
BESIDE_PYTHON = Path(sys.executable).parent  # where pip puts programs


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck", path=f"{BESIDE_PYTHON}:{os.environ['PATH']}")
    assert program, "shellcheck is missing: pip install 'cosyjax[test]' brings it"
    assert {"local.sh", "slurm.sh", "tpu_queued.sh", "gke.sh", "train.sh"} <= {
        path.name for path in SCRIPTS
    }
    ran = subprocess.run([program, *SCRIPTS], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_tells_its_use_in_its_header(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert re.match(r"#!/usr/bin/env bash$|# shellcheck shell=bash", lines[0])
    assert lines[1].startswith("# ") and len(lines) <= 250
    assert os.access(path, os.X_OK) == lines[0].startswith("#!")


def test_variables_of_a_header_are_those_that_the_script_reads() -> None:
    for name in ("local", "slurm", "tpu_queued", "gke"):
        text = (LAUNCH / f"{name}.sh").read_text()
        header, _, body = text.partition("\nset -u")
        told = set(re.findall(r"^#   ([A-Z][A-Z_, ]*?)(?:=1)?\s", header, re.MULTILINE))
        told = {word for entry in told for word in re.split(r"[, ]+", entry) if word}
        shared = {"RESTARTS", "FRUITLESS", "PAUSE_S", "DRY_RUN"}
        read = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", body))
        assert told - shared - read == set(), f"{name}.sh tells of what it does not read"


def test_the_commands_of_the_page_would_start_something(stage: Stage) -> None:
    page = (LAUNCH.parent / "docs" / "launching.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    ran = subprocess.run(
        ["bash", "-e"],
        input="".join(f"(\n{block})\n" for block in blocks),
        cwd=LAUNCH.parent,
        env={**stage.environ, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    for start, count in (("cosyjax ", 15), ("sbatch ", 2), ("gcloud ", 10), ("kind: ", 2)):
        assert len(re.findall(rf"^{start}", ran.stdout, re.MULTILINE)) == count, start
