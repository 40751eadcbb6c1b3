"""Imports go one way, files and functions stay small, and upstream names stay in convert/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cosyjax"
FLOORS = {
    "errors": 0,
    "shapes": 0,
    "config": 0,
    "sharding": 0,
    "ops": 1,
    "text": 1,
    "io": 1,
    "layers": 2,
    "models": 3,
    "losses": 4,
    "data": 4,
    "infer": 4,
    "train": 5,
    "eval": 5,
    "aot": 5,
    "convert": 5,
    "serve": 5,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
}
FORBIDDEN = {
    "data": ("cosyjax.models", "cosyjax.infer", "torch"),
    "infer": ("cosyjax.losses", "cosyjax.train", "cosyjax.data", "optax", "orbax", "torch"),
}
UPSTREAM = (
    "CausalMaskedDiffWithXvec",
    "inference_cfg_rate",
    "token_mel_ratio",
    "pre_lookahead_len",
    "spk_embed_affine_layer",
    "condnet",
    "fsmn_block",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def floor_name(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_never_go_upward() -> None:
    bad = []
    for path in FILES:
        here = FLOORS[floor_name(path)]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "cosyjax" and len(parts) > 1 and parts[1] in FLOORS:
                if FLOORS[parts[1]] > here:
                    bad.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not bad, "\n".join(bad)


def test_only_convert_imports_torch() -> None:
    bad = [
        str(path)
        for path in FILES
        if floor_name(path) != "convert" and any(n.split(".")[0] == "torch" for n in imports(path))
    ]
    assert not bad


@pytest.mark.parametrize("floor", sorted(FORBIDDEN))
def test_a_floor_keeps_away_from_what_it_must_not_know(floor: str) -> None:
    bad = [
        f"{path}: {name}"
        for path in FILES
        if floor_name(path) == floor
        for name in imports(path)
        if name.startswith(FORBIDDEN[floor])
    ]
    assert not bad


def test_files_and_functions_stay_small() -> None:
    bad = []
    for path in FILES:
        text = path.read_text()
        if len(text.splitlines()) > 350:
            bad.append(f"{path}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                bad.append(f"{path}:{node.lineno} {node.name}: over 60 lines")
    assert not bad, "\n".join(bad)


def test_upstream_names_live_in_convert_alone() -> None:
    bad = [
        f"{path}: {word}"
        for path in FILES
        if floor_name(path) != "convert"
        for word in UPSTREAM
        if word in path.read_text()
    ]
    assert not bad, "\n".join(bad)


def test_every_public_function_has_a_docstring() -> None:
    bad = []
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                bad.append(f"{path}:{node.lineno} {node.name}")
    assert not bad, "\n".join(bad)
