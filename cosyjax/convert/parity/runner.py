"""`cosyjax parity DIR`: every golden file through our modules, a verdict per tensor."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.convert.parity.fixture import Check, Fixture, load_fixture
from cosyjax.errors import InputError

# Each family module has FIXTURES: {fixture name: function(Fixture) -> iterable of Checks}.
FAMILIES = ("audio", "speaker", "tokenizer", "lm", "flow", "vocoder", "gan", "stream", "text")
MANIFESTS = {
    "hift_full": "hift",
    "s3tokenizer_full": "s3tokenizer_v2",
    "flow_full": "flow",
    "llm_full": "llm",
    "fbank_campplus": "campplus",
}
UNUSED_KEYS = ("llm.model.lm_head.weight",)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    fixture: str
    tensor: str
    shape: tuple[int, ...]
    max_abs: float
    relative: float
    tolerance: float
    verdict: str  # "ok", "FAIL" or "skip"
    note: str = ""


def run_folder(folder: Path) -> Iterator[Row]:
    """Yields a row per tensor of every fixture (`*.json`) in `folder`.

    Raises:
      InputError: the folder is absent or holds no fixture.
    """
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise InputError(f"{folder}: no fixtures (*.json beside *.safetensors) there")
    runners = _runners()
    for path in paths:
        fixture = load_fixture(path, manifest_keys)
        run = _runner_for(fixture.name, runners) or _runner_for(path.stem, runners)
        if run is None:
            note = f"no module for this fixture; known: {', '.join(sorted(runners))}"
            yield Row(fixture.name, "-", (), np.nan, np.nan, 0.0, "FAIL", note)
            continue
        yield from _rows(fixture, run)


def _runners() -> dict[str, Callable[[Fixture], Iterable[Check]]]:
    table: dict[str, Callable[[Fixture], Iterable[Check]]] = {}
    for family in FAMILIES:
        table |= importlib.import_module(f"cosyjax.convert.parity.{family}").FIXTURES
    return table


def _runner_for(name: str, runners: dict[str, Any]) -> Any:
    """The runner of that name or, for a variant such as `lm_b`, of its longest prefix."""
    fits = [known for known in runners if name == known or name.startswith(known + "_")]
    return runners[max(fits, key=len)] if fits else None


def _rows(fixture: Fixture, run: Callable[[Fixture], Iterable[Check]]) -> Iterator[Row]:
    seen: set[str] = set()
    try:
        for check in run(fixture):
            seen.add(check.tensor)
            yield compare(fixture.name, check)
    except Exception as error:  # a broken fixture must not hide the others' verdicts
        note = f"{type(error).__name__}: {error}"
        yield Row(fixture.name, "-", (), np.nan, np.nan, 0.0, "FAIL", note)
    for name in sorted(set(fixture.outputs) - seen):
        shape = fixture.outputs[name].shape
        yield Row(fixture.name, name, shape, np.nan, np.nan, 0.0, "FAIL", "not compared")


def compare(fixture: str, check: Check) -> Row:
    """Judges one tensor; integers, booleans and text must be equal."""
    if check.skipped:
        shape = np.shape(check.expected)
        return Row(fixture, check.tensor, shape, np.nan, np.nan, 0.0, "skip", check.skipped)
    actual, expected = np.asarray(check.actual), np.asarray(check.expected)
    if actual.shape != expected.shape:
        note = f"shape {actual.shape} differs"
        return Row(fixture, check.tensor, expected.shape, np.nan, np.nan, 0.0, "FAIL", note)
    if not np.issubdtype(expected.dtype, np.floating):
        same = bool(np.all(actual == expected))
        distance = float(np.max(actual != expected)) if expected.size else 0.0
        verdict = "ok" if same else "FAIL"
        row = (fixture, check.tensor, expected.shape, distance, distance, 0.0)
        return Row(*row, verdict, check.reason or "exact")
    return _compare_floats(fixture, check, actual, expected)


def _compare_floats(fixture: str, check: Check, actual: np.ndarray, expected: np.ndarray) -> Row:
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    # A scalar or a constant tensor has no spread; then its own size is the unit.
    size = float(np.max(np.abs(expected))) if expected.size else 0.0
    unit = float(np.std(expected.astype(np.float64)))
    unit = unit if unit > 1e-6 * size and expected.size > 1 else (size or 1.0)
    max_abs = float(np.max(difference)) if expected.size else 0.0
    worst = max_abs if check.measure == "max" else float(np.sqrt(np.mean(difference**2)))
    ok = worst <= check.tolerance * unit and np.all(np.isfinite(actual))
    note = f"{check.measure}; {check.reason}" if check.measure != "max" else check.reason
    row = (fixture, check.tensor, expected.shape, max_abs, worst / unit, check.tolerance)
    return Row(*row, "ok" if ok else "FAIL", note)


def manifest_keys(fixture: str) -> list[Any]:
    """[[key, shape], ...] of an official full-size model, in the recipe's order."""
    stem = next((MANIFESTS[n] for n in MANIFESTS if fixture.startswith(n)), None)
    if stem is None:
        raise InputError(f"{fixture}: its weights come from a manifest that is not known")
    text = resources.files("cosyjax.convert").joinpath("manifest", f"{stem}.json").read_text()
    return [[k, shape] for k, shape in json.loads(text).items() if k not in UNUSED_KEYS]


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Formats rows as they come."""
    head = ("fixture", "tensor", "shape", "max abs", "relative", "bound")
    yield "{:<20} {:<38} {:<16} {:>9} {:>9} {:>8}".format(*head)
    for row in rows:
        shape = "x".join(map(str, row.shape)) or "scalar"
        numbers = f"{row.max_abs:9.2e} {row.relative:9.2e} {row.tolerance:8.0e}"
        where = f"{row.fixture:<20} {row.tensor:<38} {shape:<16}"
        yield f"{where} {numbers} {row.verdict:<4} {row.note}".rstrip()
