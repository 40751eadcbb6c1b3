"""`cosyjax curves`: runs over each other."""

import json
from pathlib import Path

import pytest

from cosyjax.cli import main


def write_run(folder: Path, rows: list[dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    first = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "heldout_loss": 1.5}]
    folders = [write_run(tmp_path / name / "run", first) for name in ("a", "b")]
    return [str(folder) for folder in folders]


def test_runs_of_one_name_are_drawn_apart(runs: list[str], tmp_path: Path, monkeypatch):
    drawn = {}
    take = lambda rows, metrics, path: drawn.update(rows=rows, metrics=metrics, path=path)
    monkeypatch.setattr("cosyjax.train.plots.plot_runs", take)
    assert main(["curves", *runs, "-o", str(tmp_path / "out.png")]) == 0
    assert list(drawn["rows"]) == ["run", runs[1]]
    assert drawn["metrics"] == ["loss", "heldout_loss"]


def test_a_picture_is_written(runs: list[str], tmp_path: Path):
    path = tmp_path / "out.png"
    assert main(["curves", *runs, "-o", str(path), "--metrics", "loss"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words, told",
    [
        (["--metrics", "los"], "'loss'"),
        (["-o", "out.jpg"], ".png"),
        (["nowhere"], "no run there"),
    ],
)
def test_what_cannot_be_drawn_is_said(runs: list[str], tmp_path: Path, capsys, words, told):
    output = [] if "-o" in words else ["-o", str(tmp_path / "out.png")]
    assert main(["curves", *runs, *words, *output]) == 2
    assert told in capsys.readouterr().err
