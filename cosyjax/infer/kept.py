"""Programs that are traced once per machine, beside JAX's cache of what was compiled of them.

A start that finds everything compiled still traces and lowers each program before it can look for
it, and a chunk's program has thousands of operations: that took longer than all else together.
Here the lowered form is kept. A program is found again by what it was made from: the sources of
the package, the versions, the device, static arguments, shapes and types.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file

PACKAGE = Path(__file__).parents[1]
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
SUFFIX = ".stablehlo"
DIGEST_BYTES = 32  # of SHA-256, before the program
Program = Callable[[Sequence[Any]], tuple[Any, ...]]


def folder(params: Any) -> Path | None:
    """Where programs are kept: beside those that JAX keeps.

    None where it keeps none in a folder of this machine, and for parameters on several devices.
    """
    place = getattr(jax.config, "jax_compilation_cache_dir")
    arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    spread = any(len(leaf.sharding.device_set) > 1 for leaf in arrays)
    return None if spread or not place or "://" in place else Path(place) / "traced"


def program(
    function: Callable[[Any], tuple[Any, ...]],
    given: Any,
    *,
    static: Any,
    donate: Any,
    place: Path,
) -> Program:
    """Returns `function` of the leaves of things like `given`, traced only if it never was.

    Args:
      function: of `given`; a pure function that returns a flat tuple of arrays.
      given: a pytree of arrays on one device. Only shapes and types matter.
      static: what else decides what is computed; told apart by its `repr`.
      donate: pytree like `given` of bool: memory that each call takes.
      place: folder of the programs.

    Returns:
      what turns the list of the leaves into what `function` returns. It is compiled when it is
      first called, or read from JAX's cache.
    """
    leaves, tree = jax.tree.flatten(given)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    path = place / (_name(static, tree, shapes) + SUFFIX)
    traced = _read(path)
    if traced is None:
        flat = jax.jit(lambda *leaves: function(jax.tree.unflatten(tree, leaves)))
        traced = export.export(flat)(*shapes)
        _write(path, traced)
    taken = tuple(i for i, taken in enumerate(jax.tree.leaves(donate)) if taken)
    call = jax.jit(traced.call, donate_argnums=taken)
    return lambda leaves: tuple(call(*leaves))


def _name(static: Any, tree: Any, shapes: Sequence[Any]) -> str:
    """Changes with all that a program depends on."""
    device = jax.devices()[0]
    about = (
        [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")],
        [getattr(jax.config, name, None) for name in SETTINGS],
        (device.platform, device.device_kind),
        (repr(static), str(tree), [(shape.shape, str(shape.dtype)) for shape in shapes]),
    )
    return hashlib.sha256((_sources() + repr(about)).encode()).hexdigest()[:32]


@functools.cache
def _sources() -> str:
    """Fingerprint of the package's code, any of which may decide what a program computes."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def _read(path: Path) -> export.Exported | None:
    """The program at `path`; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    kept = path.read_bytes()
    digest, written = kept[:DIGEST_BYTES], kept[DIGEST_BYTES:]
    whole = hashlib.sha256(written).digest() == digest
    return export.deserialize(bytearray(written)) if whole else None


def _write(path: Path, traced: export.Exported) -> None:
    """Keeps a program; a folder that cannot be written to costs the next start some seconds."""
    written = bytes(traced.serialize())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            partial.write_bytes(hashlib.sha256(written).digest() + written)
    except (OSError, InputError) as error:
        warnings.warn(
            f"traced programs are not kept: {error}; set COSYJAX_CACHE_DIR to a folder that can be "
            "written to, and the next start is some seconds faster",
            stacklevel=2,
        )
