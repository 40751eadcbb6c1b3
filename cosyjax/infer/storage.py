"""Smaller forms in which a bundle keeps its parameters; in memory they are float32 again.

float32  as they are
float16  half the bytes; a value below 6e-8 becomes 0, one beyond 65,504 is refused
int8     a quarter: kernels and tables as integers with a scale per column, the rest float16
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosyjax.errors import InputError, nearest

STORES = ("float32", "float16", "int8")
KEY = "store"  # in the metadata of a file; absent for float32
SCALE = "::scale"  # behind the name of the array that it belongs to
LARGEST = 127
MIN_SIZE = 4096  # smaller arrays save nothing worth their error


def pack(arrays: Mapping[str, Any], store: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Turns float32 arrays into what is written.

    Args:
      arrays: {name: array}.
      store: one of STORES.

    Returns:
      Arrays to write, and metadata by which `unpack` knows them.

    Raises:
      InputError: an unknown form, or a value that float16 cannot hold.
    """
    if store not in STORES:
        raise InputError(f"store={store!r}; {nearest(store, STORES)}")
    if store == "float32":
        return {name: np.asarray(array) for name, array in arrays.items()}, {}
    packed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        values = np.asarray(array, np.float32)
        if store == "int8" and values.ndim > 1 and values.size >= MIN_SIZE:
            packed[name], packed[name + SCALE] = _quantize(values)
        else:
            packed[name] = _halve(name, values)
    return packed, {KEY: store}


def unpack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Turns what was written back into float32 arrays.

    Raises:
      InputError: a form that this version does not know.
    """
    store = metadata.get(KEY, "float32")
    if store not in STORES:
        raise InputError(f"parameters kept as {store!r}: this cosyjax reads {', '.join(STORES)}")
    if store == "float32":
        return dict(arrays)
    names = [name for name in arrays if not name.endswith(SCALE)]
    scale = lambda name: arrays[name + SCALE] if name + SCALE in arrays else np.float32(1.0)
    return {name: arrays[name].astype(np.float32) * scale(name) for name in names}


def _quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[..., N] -> int8 of the same shape and float32 [N]."""
    largest = np.max(np.abs(values), axis=tuple(range(values.ndim - 1)))
    # A column of zeros has any scale.
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / LARGEST
    return np.rint(values / scale).astype(np.int8), scale


def _halve(name: str, values: np.ndarray) -> np.ndarray:
    if np.any(np.abs(values) > np.finfo(np.float16).max):
        raise InputError(f"{name} holds {np.max(np.abs(values)):.3g}: too large for float16")
    return values.astype(np.float16)
