"""The table of runs: what is refused, how rows come in, and the command that fits it."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import json
import threading
from pathlib import Path

import pytest

from cosyjax.cli import main
from cosyjax.errors import InputError
from cosyjax.eval.scaling.fit import APPROACHES, fit_table
from cosyjax.eval.scaling.parametric import Law
from cosyjax.eval.scaling.table import COLUMNS, Row, append_row, read_points

DOCS = Path(__file__).parents[2] / "docs"
LAW = Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28)
BUDGETS = (1e16, 1e17, 1e18)
DEPTHS = (1, 2, 3, 4, 6, 8, 12)


def make_row(depth: int, budget: float) -> Row:
    """The run of a family of which the law holds."""
    size = 200_000 * depth**3 + 400_000 * depth
    tokens = round(budget / (6 * size))
    return Row(
        depth=depth,
        budget_flops=budget,
        width=64 * depth,
        params=2 * size,
        non_embedding_params=size,
        tokens=tokens,
        speech_tokens=tokens // 2,
        flops=budget,
        flops_6nd=budget,
        steps=10,
        batch_tokens=tokens // 10,
        peak_lr=1e-3,
        loss_per_speech_token=float(LAW.loss(size, tokens)),
        loss_per_pair=80 * float(LAW.loss(size, tokens)),
        epochs=0.5,
        seconds=1.5,
        commit="abc1234",
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    for budget in BUDGETS:
        for depth in DEPTHS:
            append_row(path, make_row(depth, budget))
    return path


def edit(path: Path, row: int, column: str, value: str) -> None:
    """Puts another value into a row, counted from 1."""
    lines = list(csv.reader(path.open()))
    lines[row][COLUMNS.index(column)] = value
    path.write_text("".join(",".join(line) + "\n" for line in lines))


def test_rows_come_back_as_they_went_in(table: Path):
    points = read_points(table)
    rows = [make_row(d, c) for c in BUDGETS for d in DEPTHS]
    assert points.size == tuple(row.non_embedding_params for row in rows)
    assert points.loss == tuple(row.loss_per_speech_token for row in rows)
    assert points.depth == DEPTHS * 3 and points.budgets == list(BUDGETS)
    assert points.speech_share == pytest.approx(0.5, rel=1e-3)
    other = read_points(table, "params", "loss_per_pair")
    assert other.size == tuple(row.params for row in rows)
    assert other.loss == tuple(row.loss_per_pair for row in rows)


def test_a_worker_waits_while_another_writes(tmp_path: Path):
    path = tmp_path / "table.csv"
    append_row(path, make_row(1, 1e16))
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        worker = threading.Thread(target=append_row, args=(path, make_row(2, 1e16)))
        worker.start()
        worker.join(timeout=0.3)
        assert worker.is_alive() and len(read_points(path)) == 1
    worker.join(timeout=10.0)
    assert read_points(path).depth == (1, 2)


def test_a_run_is_added_once(table: Path):
    with pytest.raises(InputError, match="depth 2 and 1e\\+17 FLOPs already"):
        append_row(table, make_row(2, 1e17))
    append_row(table, make_row(2, 2e17))


def test_a_table_of_other_columns_is_not_appended_to(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("depth,loss\n1,2\n")
    with pytest.raises(InputError, match="columns are"):
        append_row(path, make_row(2, 1e17))
    assert path.read_text() == "depth,loss\n1,2\n"


@pytest.mark.parametrize(
    "column, value, told",
    [
        ("tokens", "nan", "row 3, tokens: nan is not above 0"),
        ("tokens", "0", "row 3, tokens: 0 is not above 0"),
        ("loss_per_speech_token", "-1.5", "row 3, loss_per_speech_token: -1.5"),
        ("loss_per_speech_token", "inf", "row 3, loss_per_speech_token: inf"),
        ("non_embedding_params", "", "row 3, non_embedding_params: '' is no number"),
        ("flops", "many", "row 3, flops: 'many' is no number"),
        ("non_embedding_params", "2400000", "rows 2 and 3: both have non_embedding_params"),
    ],
)
def test_a_bad_value_is_named_by_row_and_column(table: Path, column: str, value: str, told: str):
    edit(table, 3, column, value)
    with pytest.raises(InputError, match=told):
        read_points(table)


def test_a_line_cut_short_is_refused(table: Path):
    table.write_text(table.read_text() + "6,1e19,384\n")
    with pytest.raises(InputError, match="row 22, non_embedding_params: None is no number"):
        read_points(table)


def test_a_missing_column_is_named(table: Path):
    table.write_text(table.read_text().replace("loss_per_pair", "loss_pair", 1))
    read_points(table)
    with pytest.raises(InputError, match="no column 'loss_per_pair'; did you mean 'loss_pair'"):
        read_points(table, loss="loss_per_pair")
    with pytest.raises(InputError, match="can be fitted; did you mean 'loss_per_pair'"):
        read_points(table, loss="loss_per_pairs")


def test_the_command_prints_and_writes_what_the_table_says(table: Path, capsys):
    out = {name: table.with_name(f"fit.{name}") for name in ("json", "png")}
    words = ["--json", str(out["json"]), "--plot", str(out["png"]), "--bootstrap", "8"]
    assert main(["scaling", "fit", str(table), "--budget", "1e20", *words]) == 0
    told = capsys.readouterr().out
    assert "21 runs: 7 sizes" in told and "isoFLOP: N* ~ C^0.45" in told and "1e+20" in told
    found = json.loads(out["json"].read_text())
    for approach in ("isoflop", "parametric"):
        exponent = found[approach]["numbers"]["size_exponent"]
        assert exponent["value"] == pytest.approx(LAW.size_exponent, rel=0.02)
        far = found[approach]["optima"][-1]
        assert far["budget"] == 1e20
        assert far["size"]["value"] == pytest.approx(LAW.best_size(1e20), rel=0.1)
    assert out["png"].read_bytes().startswith(b"\x89PNG")


def test_the_command_says_that_runs_are_too_few(tmp_path: Path, capsys):
    path = tmp_path / "table.csv"
    for depth in DEPTHS[:3]:
        append_row(path, make_row(depth, 1e16))
    assert main(["scaling", "fit", str(path)]) == 2
    told = capsys.readouterr().err
    assert "needs 2 budgets" in told and "the table has 3, 3 and 1" in told


@pytest.mark.parametrize(
    "words, told",
    [
        (["fit", "none.csv"], "none.csv: no such table"),
        (["fit", "none.csv", "--json", "a.txt"], "suffix '.txt'"),
        (["fit", "none.csv", "--plot", "nowhere/a.png"], "does not exist"),
        (["add", "none", "table.csv", "--budget", "0"], "FLOPs above 0"),
        (["add", "none", "table.csv", "--budget", "1e12"], "none holds no checkpoint"),
    ],
)
def test_bad_words_are_refused_before_any_work(words, told: str, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["scaling", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_exponents_in_the_documentation_are_those_of_its_table():
    result = fit_table(read_points(DOCS / "curves" / "scaling.csv"), num_draws=0)
    told = next(
        line for line in (DOCS / "experiments.md").open() if line.startswith("| N* ~ C^a |")
    )
    found = [result.answers[name].numbers["size_exponent"].value for name in APPROACHES]
    assert [float(cell.split()[0]) for cell in told.split("|")[2:4]] == pytest.approx(
        found, abs=5.1e-3
    )


def test_every_column_of_the_table_is_described_in_the_documentation():
    text = (DOCS / "scaling.md").read_text()
    assert not [name for name in COLUMNS if f"`{name}`" not in text]
    assert dataclasses.fields(Row)[0].name == "depth"  # launch/scaling_laws.sh reads the first two
    assert dataclasses.fields(Row)[1].name == "budget_flops"
