"""Every entry of docs/pods.md, compiled again: needs libtpu, and takes about a minute an entry.

pytest -m tpu -n 0 tests/aot/test_pods.py [-k "lm and v5e-8"]
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from cosyjax.aot import matrix, table
from cosyjax.aot.report import FITS
from cosyjax.cli.train import read_config_file

ROOT = Path(__file__).parents[2]
ROWS = matrix.read_rows(ROOT / "docs" / "pods.jsonl")
ENTRIES = runpy.run_path(str(ROOT / "configs" / "pods.py"))["get_matrix"]()
LM_MFU = {1: 0.40, 8: 0.40, 256: 0.35}  # of the released size, at 16,384 tokens a chip
LONGEST_COMPILE_S = 120
names = lambda entry: entry.label
KNOWN = [one for one in ENTRIES if one.key in ROWS]


def rows_as_params(*starts: str) -> list:
    known = [one for one in KNOWN if one.name.startswith(starts)]
    return [pytest.param(ROWS[one.key], id=one.label) for one in known]


def rows_of(start: str) -> list[dict]:
    found = [ROWS[one.key] for one in KNOWN if one.name.startswith(start)]
    if not found:
        pytest.skip(f"nothing of {start!r} has been compiled yet")
    return found


@pytest.mark.tpu
@pytest.mark.slow
def test_the_table_is_whole() -> None:
    missing = [names(one) for one in ENTRIES if one.key not in ROWS]
    assert not missing


def test_the_table_is_what_the_reports_say() -> None:
    text = (ROOT / "docs" / "pods.md").read_text()
    for one in KNOWN:
        (line,) = table.markdown([{**ROWS[one.key], "program": one.name.partition(" ")[2]}])[2:]
        assert line in text, names(one)


@pytest.mark.parametrize("entry", KNOWN, ids=names)
def test_every_program_fits_and_waits_for_nobody(entry: matrix.Entry) -> None:
    row = ROWS[entry.key]
    assert not row["error"] and row["memory"]["share"] <= FITS
    assert not row["audit"]["host_transfers"]
    if entry.name.startswith("serve"):
        assert not row["audit"]["collectives"]
    elif row["chips"] > 1:
        assert row["audit"]["collectives"]


@pytest.mark.parametrize("row", rows_as_params("train lm"))
def test_the_released_lm_is_predicted_to_use_its_chips(row: dict) -> None:
    assert row["units"] / row["chips"] == 16_384
    assert row["mfu"] >= LM_MFU.get(row["chips"], 0.35)


@pytest.mark.parametrize("row", rows_as_params("train lm", "ladder"))
def test_where_parameters_are_cut_they_are_gathered(row: dict) -> None:
    cut = row["mesh"]["fsdp"] > 1
    assert ("all-gather" in row["audit"]["collectives"]) is cut


@pytest.mark.parametrize("row", rows_as_params("train flow", "train vocoder"))
def test_where_every_chip_holds_the_model_gradients_alone_pass(row: dict) -> None:
    sent = row["audit"]["collectives"]
    between = sum(one["ici"] for kind, one in sent.items() if "all-reduce" not in kind)
    assert between < 2**20  # scores, for the median of the relativistic term


@pytest.mark.parametrize("group", ["train lm", "train flow", "ladder", "serve decode"])
def test_products_of_lm_and_flow_are_in_bf16(group: str) -> None:
    for row in rows_of(group):
        assert row["audit"]["bf16_share"] >= 0.99, row["key"]


def test_products_of_the_vocoder_are_in_float32() -> None:
    for row in rows_of("train vocoder"):
        assert row["audit"]["bf16_share"] == 0.0, row["key"]


def test_the_ladder_does_not_grow_with_depth() -> None:
    """A layer of its own takes several hundred instructions; meshes differ by two thousand."""
    rows = rows_of("ladder")
    depths = [read_config_file(str(ROOT / row["config"])).task.model.num_layers for row in rows]
    sizes = dict(sorted(zip(depths, (row["audit"]["instructions"] for row in rows))))
    shallow, *_, deep = sizes
    assert deep - shallow > 40
    assert (sizes[deep] - sizes[shallow]) / (deep - shallow) < 20


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=names)
def test_a_new_compilation_says_the_same(entry: matrix.Entry, tmp_path: Path) -> None:
    assert importlib.util.find_spec("libtpu"), "needs the extra [tpu]"
    words = ["compile", "--matrix", "configs/pods.py", "--only", entry.label]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    subprocess.run(
        [sys.executable, "-m", "cosyjax", *words, "--rows", str(tmp_path / "rows")],
        cwd=ROOT,
        env=clean,
        check=True,
    )
    (row,) = matrix.read_rows(tmp_path / "rows").values()
    if entry.name.startswith("ladder"):  # on a quiet machine
        assert row["compile_s"] <= LONGEST_COMPILE_S
    known = ROWS[entry.key]
    for part in ("arguments", "temporary"):
        assert row["memory"][part] == pytest.approx(known["memory"][part], rel=0.02, abs=2**20)
    assert row["work"]["flops"] == pytest.approx(known["work"]["flops"], rel=0.02)
    assert row["work"]["hbm_bytes"] == pytest.approx(known["work"]["hbm_bytes"], rel=0.05)
