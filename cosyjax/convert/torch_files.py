"""State dicts in torch files: read without running their code, and written back.

A torch file is a pickle, and a pickle can call anything. Only weights-only loading is used: it
refuses every pickle that asks for more than tensors and plain containers.
"""

from __future__ import annotations

import dataclasses
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file

BOOKKEEPING = ("epoch", "step")  # integers that the official trainer adds
_WRAPPERS = ("state_dict", "model_state_dict")
_MOST_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class StateDict:
    """Tensors of a checkpoint as float32 (integers as they are), and the dtypes they came in."""

    tensors: dict[str, np.ndarray]
    dtypes: dict[str, str]  # of those that were not float32, such as "bfloat16"


def read_state_dict(path: Path) -> StateDict:
    """Reads a checkpoint; float32 tensors stay on disk until they are used.

    Raises:
      InputError: absent, truncated, not a torch file, a pickle that asks to run code, or entries
        that are neither tensors nor the trainer's `epoch` and `step`.
    """
    torch, entries = _torch(), read_object(path)
    for wrapper in _WRAPPERS:
        if isinstance(entries, Mapping) and isinstance(entries.get(wrapper), Mapping):
            entries = entries[wrapper]
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f"{path}: holds a {type(entries).__name__}; a state dict is needed")
    tensors, dtypes, odd = {}, {}, []
    for key, value in entries.items():
        if isinstance(value, torch.Tensor) and isinstance(key, str):
            tensors[key], dtype = _to_numpy(value)
            if dtype not in ("float32", "int64"):
                dtypes[key] = dtype
        elif key not in BOOKKEEPING:
            odd.append(f"{key!r} ({type(value).__name__})")
    if odd:
        shown = ", ".join(odd[:_MOST_SHOWN]) + (", ..." if len(odd) > _MOST_SHOWN else "")
        raise InputError(f"{path}: a state dict holds tensors alone; this one has {shown}")
    return StateDict(tensors, dtypes)


def read_object(path: Path) -> Any:
    """Loads tensors and plain containers from a torch file; see `read_state_dict`."""
    torch = _torch()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, "rb"):  # what the system refuses is no damage
        archive = zipfile.is_zipfile(path)
    if archive and _is_script(path):
        raise InputError(f"{path}: a TorchScript archive; the plain .pt state dict is needed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_refusal(path, str(error))}") from error
    except Exception as error:  # bytes that are no checkpoint end anywhere in torch's readers
        raise InputError(f"{path}: {_damage(path)} ({_first_line(error)})") from error


def _is_script(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refusal(path: Path, message: str) -> str:
    """Tells a pickle that wants more than tensors from a file that is no pickle at all."""
    if "Unsupported" in message or "GLOBAL" in message or "not an allowed" in message:
        asked = next((line for line in message.splitlines() if "GLOBAL" in line), "")
        name = next((word for word in asked.split() if "." in word), "")
        return (
            f"asks to run code{' (' + name.strip('`,') + ')' if name else ''} while loading, so it "
            "was not loaded; use a file that holds tensors alone, from a source you trust"
        )
    return f"{_damage(path)} ({message.splitlines()[0] if message else 'no pickle'})"


def _damage(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return f"truncated ({size:,} bytes, its end is missing); copy or download it again"
    return f"not a torch checkpoint, or damaged ({size:,} bytes); copy or download it again"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _to_numpy(tensor: Any) -> tuple[np.ndarray, str]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_floating_point() and dtype != "float32":
        tensor = tensor.float()
    return tensor.detach().numpy(), dtype


def write_state_dict(
    path: Path, tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str] | None = None
) -> None:
    """Writes a checkpoint atomically; the same array under two keys is stored once.

    Args:
      path: file to write.
      tensors: {key: array}.
      dtypes: {key: torch dtype} to cast to before writing.
    """
    entries, known = {}, {}
    for key, value in tensors.items():
        dtype = (dtypes or {}).get(key)
        token = (id(value), dtype)
        if token not in known:
            known[token] = to_torch(value, dtype)
        entries[key] = known[token]
    write_object(path, entries)


def write_object(path: Path, value: Any) -> None:
    """Writes tensors and plain containers atomically, readable with weights-only loading."""
    with atomic_file(path) as partial:
        try:
            _torch().save(value, partial)
        except RuntimeError as error:  # torch reports a failed write so
            raise InputError(f"{path}: cannot be written: {_first_line(error)}") from error


def to_torch(value: Any, dtype: str | None = None) -> Any:
    """An array as a tensor that shares its memory, unless `dtype` asks for another type."""
    torch = _torch()
    with warnings.catch_warnings():
        # A mapped array is read-only; torch warns, and nothing here writes to the tensor.
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(np.asarray(value))
    return tensor if dtype is None else tensor.to(getattr(torch, dtype))


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            "reading or writing official weights needs torch: pip install cosyjax[convert]"
        ) from error
    return torch
