"""Named arrays in safetensors files, and lists of checksums.

Writing streams one array after another, so a transposed view of a mapped checkpoint costs no copy
of the whole. Reading maps the file: an array takes memory when it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file, atomic_folder, check_room

__all__ = ["atomic_file", "atomic_folder", "check_room"]

CHECKSUMS = "SHA256SUMS"
_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64  # bytes; JAX on CPU takes a mapped array as it is only from such an address


def save_arrays(
    path: Path | str, arrays: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically.

    Args:
      path: file to write.
      arrays: {name: array}; strided views are copied one at a time.
      metadata: short strings kept in the header.

    Raises:
      InputError: the disk is full or the folder does not exist.
    """
    views = {name: np.asarray(array) for name, array in arrays.items()}
    # Arrays that keep the next one aligned come first.
    order = sorted(views, key=lambda name: (views[name].nbytes % _ALIGNMENT != 0, name))
    header = _header(views, order, metadata)
    total = len(header) + sum(view.nbytes for view in views.values())
    with atomic_file(path, needed_bytes=total) as partial, open(partial, "wb") as file:
        file.write(header)
        for name in order:
            contiguous = np.ascontiguousarray(views[name])
            file.write(contiguous.reshape(-1).view(np.uint8).data)
        file.flush()


def _header(
    views: Mapping[str, np.ndarray], order: list[str], metadata: Mapping[str, str] | None
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in order:
        view = views[name]
        if view.dtype not in _NAMES:
            raise InputError(f"{name}: arrays of {view.dtype} cannot be saved")
        end = start + view.nbytes
        shape, span = list(view.shape), [start, end]
        entries[name] = {"dtype": _NAMES[view.dtype], "shape": shape, "data_offsets": span}
        start = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def load_arrays(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Maps a safetensors file.

    Returns:
      arrays: {name: read-only array}, read from disk when used.
      metadata: the header's strings.

    Raises:
      InputError: the file is missing, truncated, or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # The header of an honest file is far below 100 MB, the limit of the format.
        text = file.read(length) if 8 + length <= size and length < 100_000_000 else b""
    try:
        header = json.loads(text)
        metadata = dict(header.pop("__metadata__", {}))
        spans = {name: _span(entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a safetensors file, or its start is damaged ({size:,} bytes)"
        ) from error
    end = 8 + length + max((start + count for _, _, start, count in spans.values()), default=0)
    if end != size:
        kind = "truncated" if size < end else "damaged"
        raise InputError(
            f"{path}: {kind}: {size:,} bytes, its header asks for {end:,}; copy or convert it again"
        )
    if end == 8 + length:
        return {n: np.zeros(shape, dtype) for n, (dtype, shape, _, _) in spans.items()}, metadata
    data = np.memmap(path, mode="r", offset=8 + length, dtype=np.uint8)
    arrays = {
        name: np.asarray(data[start : start + count]).view(dtype).reshape(shape)
        for name, (dtype, shape, start, count) in spans.items()
    }
    return arrays, metadata


def _span(entry: Mapping[str, Any]) -> tuple[np.dtype, tuple[int, ...], int, int]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"])
    start, end = entry["data_offsets"]
    count = dtype.itemsize * math.prod(shape)
    if start < 0 or end - start != count:
        raise ValueError("offsets do not fit the shape")
    return dtype, shape, start, count


def save_tree(
    path: Path | str, tree: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes nested dictionaries of arrays, under dotted names; see `save_arrays`."""
    save_arrays(path, traverse_util.flatten_dict(tree, sep="."), metadata=metadata)


def load_tree(path: Path | str) -> dict[str, Any]:
    """Reads what `save_tree` wrote; see `load_arrays`."""
    return traverse_util.unflatten_dict(load_arrays(path)[0], sep=".")


def read_json(path: Path, advice: str = "") -> dict[str, Any]:
    """Reads an object.

    Raises:
      InputError: not readable as JSON, or not an object; `advice` says what to do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}){advice}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; an object is needed{advice}")
    return values


def write_checksums(folder: Path) -> None:
    """Writes `SHA256SUMS` over every file below `folder`, as `sha256sum -c` reads it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    with atomic_file(folder / CHECKSUMS) as partial:
        partial.write_text("".join(lines))


def verify_checksums(folder: Path) -> None:
    """Raises InputError naming every file that is missing or differs from `SHA256SUMS`."""
    path = folder / CHECKSUMS
    if not path.is_file():
        raise InputError(f"{path}: no such file, so nothing can be verified")
    bad = []
    for line in path.read_text().splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            bad.append(f"{name} is missing")
        elif _sha256(folder / name) != expected:
            bad.append(f"{name} differs")
    if bad:
        raise InputError(f"{folder}: damaged: {', '.join(bad)}; copy or convert it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
