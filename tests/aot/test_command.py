"""`cosyjax compile`, with this machine's devices in the place of a pod's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.aot import judge, matrix, topology
from cosyjax.aot.request import load
from cosyjax.cli import main
from cosyjax.errors import InputError
from cosyjax.train.program import make_program
from tests.train.toy_config import get_config

ROOT = Path(__file__).parents[2]
TOY = "tests/train/toy_config.py"
MATRIX = """
from cosyjax.aot.matrix import Entry
def get_matrix():
    return [Entry(f"train toy{i}", "tests/train/toy_config.py", "train", "v5e-1") for i in range(2)]
"""


@pytest.fixture(autouse=True)
def devices_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = lambda wanted: jax.devices()[: wanted.total_chips]
    monkeypatch.setattr(topology, "devices", found)


def compile_(*words: str) -> int:
    return main(["compile", "--config", TOY, "--topology", "v5e-1", *words])


def test_a_step_is_compiled_and_reported(tmp_path: Path, capsys) -> None:
    written, drawn = tmp_path / "out.json", tmp_path / "out.png"
    assert compile_("--json", str(written), "--plot", str(drawn)) == 0
    (row,) = json.loads(written.read_text())
    assert row["program"] == "train" and row["fits"] and row["work"]["flops"] > 0
    assert drawn.stat().st_size > 1000
    said = capsys.readouterr().out
    assert "of the memory" in said or "GiB" in said
    assert "memory" in said.splitlines()[-2] and "v5e-1" in said.splitlines()[-1]


def test_the_least_effort_is_asked_of_one_program_alone(monkeypatch, tmp_path: Path) -> None:
    asked = []

    def compiles(self, compiler_options=None):
        asked.append((jax.config.jax_exec_time_optimization_effort, compiler_options))
        raise RuntimeError("RESOURCE_EXHAUSTED: seen")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiles)
    monkeypatch.setattr(judge, "QUICK_OPTIONS", {"known to": "TPUs"})
    written = tmp_path / "out.json"
    for words, effort, options in [(("--quick",), -1.0, {"known to": "TPUs"}), ((), 0.0, None)]:
        assert compile_(*words, "--json", str(written)) == 1
        assert asked[-1] == (effort, options)
        assert json.loads(written.read_text())[0]["quick"] is bool(words)
    assert len(asked) == 2


def test_a_program_that_does_not_fit_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = topology.GENERATIONS["v5e"]
    chip = tight.chip._replace(hbm_bytes=1000.0)
    monkeypatch.setitem(topology.GENERATIONS, "v5e", tight._replace(chip=chip))
    assert compile_() == 1


@pytest.mark.parametrize(
    "words, told",
    [
        (["--topology", "v5e-7"], "slices of v5e have"),
        (["--programs", "train,decode"], "no program 'decode'"),
        (["--set", "mesh.fsdp=3"], "needs 3 devices"),
        (["--json", "out.txt"], "suffix"),
        (["--save", "x", "--largest"], "leave --largest out"),
        (["--save", "x", "--quick"], "leave one out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_compiled(words, told, capsys) -> None:
    assert compile_(*words) == 2
    assert told in capsys.readouterr().err


def test_without_the_compiler_of_tpus_it_says_how_to_get_it(monkeypatch, capsys) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert compile_() == 2
    assert "pip install 'cosyjax[tpu]'" in capsys.readouterr().err


@pytest.fixture
def compiled_here() -> Iterator[None]:
    """A CPU's program that came from the cache on disk cannot be written once more."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def test_a_kept_program_runs_as_the_one_that_was_compiled(tmp_path: Path, compiled_here) -> None:
    jax.clear_caches()
    assert compile_("--save", str(tmp_path / "step")) == 0
    program = make_program(get_config(), jax.devices()[:1])
    rows = jax.tree.map(np.ones_like, program.config.data.longest())
    batch = jax.device_put(rows, jax.devices()[0])
    wanted = program.step(program.init(jax.random.key(0)), batch)
    found = load(tmp_path / "step", jax.devices()[:1])(program.init(jax.random.key(0)), batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_matrix_goes_on_where_it_was_stopped_and_fills_its_document(
    tmp_path: Path, capsys
) -> None:
    (tmp_path / "matrix.py").write_text(MATRIX)
    docs, rows = tmp_path / "pods.md", tmp_path / "pods.jsonl"
    docs.write_text("# Pods\n<!-- table: train -->\nold\n<!-- /table -->\nend\n")
    words = ["compile", "--matrix", str(tmp_path / "matrix.py"), "--rows", str(rows)]
    words += ["--docs", str(docs)]
    assert main([*words, "--only", "toy1"]) == 0
    assert list(matrix.read_rows(rows)) == ["train toy1 | 1 x v5e-1 | " + TOY]
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 of 2: train toy0 1xv5e-1" in said and ": train toy1" not in said
    text = docs.read_text()
    assert "| toy0 | v5e-1" in text and "| toy1 | v5e-1" in text
    assert "old" not in text and text.endswith("<!-- /table -->\nend\n")


def test_a_half_written_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"key": "a"}\n{"key": "b", "mem')
    with pytest.raises(InputError, match="line 2"):
        matrix.read_rows(tmp_path / "rows")
