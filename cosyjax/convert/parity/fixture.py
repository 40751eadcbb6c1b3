"""Golden files: what a fixture holds, and what comparing a tensor says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import InputError

DEFAULT_TOLERANCE = 1e-4  # of the expected tensor's standard deviation


@dataclasses.dataclass(frozen=True)
class Fixture:
    """One golden file: `weights` by official key, `inputs` and `outputs` without their prefix."""

    name: str
    path: Path  # the .json; an .onnx or .safetensors of the same stem may lie beside it
    meta: dict[str, Any]
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta.get("config", {})

    def part(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Inputs and outputs of one part of a merged file, without the part's prefix."""
        return _below(self.inputs, name + "."), _below(self.outputs, name + ".")


@dataclasses.dataclass(frozen=True)
class Check:
    """One compared tensor. `tolerance` is relative to the std of `expected` unless `exact`.

    A looser tolerance than the default needs `reason`. With `measure="rms"` the root mean square
    of the difference counts rather than its maximum. `skipped` says why nothing was compared.
    """

    tensor: str
    actual: Any
    expected: Any
    tolerance: float = DEFAULT_TOLERANCE
    reason: str = ""
    measure: str = "max"
    skipped: str = ""

    def __post_init__(self) -> None:
        assert self.tolerance <= DEFAULT_TOLERANCE or self.reason, f"{self.tensor}: say why"


def load_fixture(path: Path, keys_of: Any) -> Fixture:
    """Reads `X.json` and, where present, `X.safetensors`; rebuilds recipe weights.

    Args:
      path: the json file.
      keys_of: called with the fixture's name where the recipe takes its keys from a manifest;
        returns [[key, shape], ...].
    """
    try:
        meta = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a readable fixture: {error}") from error
    tensors: dict[str, np.ndarray] = {}
    if path.with_suffix(".safetensors").exists():
        from safetensors.numpy import load_file

        tensors = load_file(path.with_suffix(".safetensors"))
    weights, recipe = _below(tensors, "w."), meta.get("weights")
    name = meta.get("name", path.stem)
    if isinstance(recipe, dict):
        keys = recipe.get("keys") or keys_of(name)
        weights |= rebuild(keys, int(recipe["seed"]), float(recipe.get("gain", 1.0)))
    return Fixture(name, path, meta, weights, _below(tensors, "in."), _below(tensors, "out."))


def _below(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def rebuild(keys: list[Any], seed: int, gain: float) -> dict[str, np.ndarray]:
    """Draws a recipe's weights: one numpy stream, one normal draw a key, scaled by kind."""
    stream = np.random.RandomState(seed)
    weights: dict[str, np.ndarray] = {}
    for name, shape in keys:
        last = name.rsplit(".", 1)[-1]
        if last == "num_batches_tracked":
            weights[name] = np.zeros(shape, np.int64)
            continue
        draw = stream.standard_normal(tuple(shape)).astype(np.float32)
        weights[name] = np.asarray(_scaled(draw, name, last, gain), np.float32)
    return weights


def _scaled(draw: np.ndarray, name: str, last: str, gain: float) -> np.ndarray:
    if last == "running_mean":
        return 0.2 * draw
    if last == "running_var":
        return 0.5 + np.abs(draw)
    if "alpha" in last:
        return 0.3 + np.abs(draw)
    if last in ("original0", "weight_g"):
        return (0.5 + 0.5 * np.abs(draw)) * gain
    if draw.ndim == 1:
        return 1.0 + 0.3 * draw if last == "weight" else 0.1 * draw
    if "embedding" in name or "embed_tokens" in name:
        return 0.5 * draw
    return draw * (gain / np.sqrt(int(np.prod(draw.shape[1:]))))
