"""One table of rules per model takes official tensors to our tree and back, bit for bit.

A rule pairs one of our parameter paths with one official key and says how the dimensions are
ordered there. All layouts are permutations, so the way there and back changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cosyjax.errors import InputError, nearest

HINTS = 5  # unexpected keys that get the nearest known ones beside them

# Axis orders: our array = official.transpose(order).
LAYOUTS: dict[str, tuple[int, ...] | None] = {
    "same": None,
    "dense": (1, 0),  # [out, in] -> [in, out]
    "conv1d": (2, 1, 0),  # [out, in, width] -> [width, in, out]
    "conv_transpose1d": (2, 0, 1),  # [in, out, width] -> [width, in, out]
    "conv2d": (2, 3, 1, 0),  # [out, in, height, width] -> [height, width, in, out]
}


class Rule(NamedTuple):
    """`ours` is a dotted path in the parameter tree, `theirs` an official state-dict key."""

    ours: str
    theirs: str
    layout: str = "same"


def linear(ours: str, theirs: str, bias: bool = True) -> list[Rule]:
    """Rules of a dense layer."""
    rules = [Rule(f"{ours}.kernel", f"{theirs}.weight", "dense")]
    return rules + [Rule(f"{ours}.bias", f"{theirs}.bias")] * bias


def conv(ours: str, theirs: str, bias: bool = True, layout: str = "conv1d") -> list[Rule]:
    """Rules of a plain convolution."""
    rules = [Rule(f"{ours}.kernel", f"{theirs}.weight", layout)]
    return rules + [Rule(f"{ours}.bias", f"{theirs}.bias")] * bias


def norm(ours: str, theirs: str, bias: bool = True) -> list[Rule]:
    """Rules of a layer norm (or an RMS norm with `bias=False`)."""
    rules = [Rule(f"{ours}.scale", f"{theirs}.weight")]
    return rules + [Rule(f"{ours}.bias", f"{theirs}.bias")] * bias


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to {dotted path: leaf}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, path + ".") if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted path: leaf} to nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def import_tensors(
    rules: Iterable[Rule],
    official: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    source: str = "checkpoint",
) -> dict[str, Any]:
    """Builds our parameter tree (numpy float32) from official tensors.

    Args:
      rules: the model's table.
      official: {official key: array}; every key must be used by a rule.
      shapes: {our dotted path: shape}, from `jax.eval_shape` of the module's init.
      source: what error messages call the checkpoint.

    Raises:
      InputError: naming every missing, unexpected or misshapen key.
    """
    rules = list(rules)
    problems = _key_problems(rules, official)
    flat: dict[str, np.ndarray] = {}
    for rule in rules:
        if rule.theirs not in official:
            continue
        order, value = LAYOUTS[rule.layout], np.asarray(official[rule.theirs])
        expected = shapes.get(rule.ours)
        if order is not None and value.ndim == len(order):
            value = value.transpose(order)
        if expected is None or tuple(value.shape) != tuple(expected):
            wanted = None if expected is None else _official_shape(tuple(expected), order)
            given = tuple(official[rule.theirs].shape)
            problems.append(f"misshapen {rule.theirs}: {given}, needed {wanted}")
        flat[rule.ours] = value
    unmapped = sorted(set(shapes) - {rule.ours for rule in rules})
    assert not unmapped, f"parameters without a rule: {unmapped[:5]}"
    if problems:
        raise InputError(f"{source}: {len(problems)} keys do not fit:\n  " + "\n  ".join(problems))
    return unflatten(flat)


def _key_problems(rules: list[Rule], official: Mapping[str, np.ndarray]) -> list[str]:
    wanted = {rule.theirs for rule in rules}
    missing = [f"missing {key}" for key in sorted(wanted - set(official))]
    surplus = sorted(set(official) - wanted)
    # Looking for the nearest key takes 0.1 s on a full table: a hint for the first few alone.
    hinted = [f"unexpected {key} ({nearest(key, wanted)})" for key in surplus[:HINTS]]
    return missing + hinted + [f"unexpected {key}" for key in surplus[HINTS:]]


def _official_shape(shape: tuple[int, ...], order: tuple[int, ...] | None) -> tuple[int, ...]:
    if order is None or len(order) != len(shape):
        return shape
    official = [0] * len(shape)
    for ours, theirs in enumerate(order):
        official[theirs] = shape[ours]
    return tuple(official)


def export_tensors(rules: Iterable[Rule], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The way back: our tree to {official key: contiguous array}."""
    flat = flatten(tree)
    official: dict[str, np.ndarray] = {}
    for rule in rules:
        order, value = LAYOUTS[rule.layout], np.asarray(flat[rule.ours])
        if order is not None:
            value = value.transpose(np.argsort(order))
        official[rule.theirs] = np.ascontiguousarray(value)
    return official
