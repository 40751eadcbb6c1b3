"""notebooks/scaling_laws.ipynb runs from the first cell to the last, and holds no outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cosyjax.eval.scaling.table import read_points

HOME = Path(__file__).parents[2]
NOTEBOOK = HOME / "notebooks" / "scaling_laws.ipynb"


def code_of(notebook: Path) -> str:
    """The cells of code as one program."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def test_the_notebook_holds_no_outputs_and_its_cells_are_plain_python():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells) and NOTEBOOK.stat().st_size < 20_000
    compile(code_of(NOTEBOOK), "notebook", "exec")
    assert "lm_scaling.py" in code_of(NOTEBOOK)


@pytest.mark.slow
def test_the_notebook_trains_the_smallest_ladder_and_fits_two_tables(tmp_path: Path):
    program = tmp_path / "notebook.py"
    program.write_text(code_of(NOTEBOOK))
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=NOTEBOOK.parent,
        env={**os.environ, "WORK": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    points = read_points(tmp_path / "table.csv")
    assert points.depth == (1, 2, 3) * 3
    assert 3.0 < min(points.loss) < max(points.loss) < 9.0
    assert done.stdout.count(" runs: ") == 2 and "parametric: N* ~ C^" in done.stdout
    for name in ("smallest.png", "larger.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
