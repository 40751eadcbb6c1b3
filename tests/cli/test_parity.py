"""`cosyjax parity` runs what it finds, prints a line per tensor and exits by the verdict."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cosyjax.cli import main


@pytest.fixture
def folder(golden, tmp_path):
    for suffix in ("json", "safetensors"):
        shutil.copy(golden / f"fsq.{suffix}", tmp_path)
    return tmp_path


def test_golden_files_pass(folder, capsys) -> None:
    assert main(["parity", str(folder)]) == 0
    out = capsys.readouterr().out
    assert " ok" in out and ", 0 failed, 0 skipped" in out


def test_a_tensor_that_differs_fails_and_is_named(folder, capsys) -> None:
    path = folder / "fsq.safetensors"
    arrays = load_file(path)
    name = next(n for n in arrays if n.startswith("out.") and arrays[n].dtype.kind in "iu")
    arrays[name] = arrays[name] + np.ones((), arrays[name].dtype)
    save_file(arrays, path)
    assert main(["parity", str(folder)]) == 1
    out = capsys.readouterr().out
    failed = [line for line in out.splitlines() if "FAIL" in line]
    assert len(failed) == 1 and name.removeprefix("out.") in failed[0]
