"""Logical axis names to mesh axes: the only place that writes a PartitionSpec.

Modules name the axes of their parameters ("embed", "heads", ...). A list of rules, part of the
config, says which mesh axis each name lies on. An axis without a rule is replicated. Two
dimensions on one mesh axis, or a size that the mesh does not divide, are errors that name the
parameter: nothing is replicated silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cosyjax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # the rows of a batch lie on both
Rules = Sequence[tuple[str, str | None]]

DEFAULT_RULES: Rules = (
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Returns a mesh over the first `data * fsdp * tensor` devices; one size may be -1, the rest.

    Raises:
      InputError: more devices than there are, or a rest that does not come out whole.
    """
    devices = jax.devices()
    fixed = math.prod(size for size in (data, fsdp, tensor) if size != -1)
    rest = len(devices) // fixed
    if -1 in (data, fsdp, tensor) and fixed * rest != len(devices):
        raise InputError(
            f"a mesh of {data} x {fsdp} x {tensor}: {len(devices)} devices do not divide by {fixed}"
        )
    data, fsdp, tensor = (rest if size == -1 else size for size in (data, fsdp, tensor))
    wanted = data * fsdp * tensor
    if wanted > len(devices):
        raise InputError(
            f"a mesh of {data} x {fsdp} x {tensor} needs {wanted} devices; {len(devices)} are here"
        )
    return jax.make_mesh(
        (data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:wanted]
    )


def param_shardings(boxed: Any, rules: Rules, mesh: Mesh) -> Any:
    """Maps a tree of boxed parameters (before `unbox`) to a tree of NamedShardings.

    Args:
      boxed: what `jax.eval_shape(module.init, ...)` returns.
      rules: (logical axis, mesh axis or None) pairs.
      mesh: the mesh.

    Raises:
      InputError: two dimensions of one parameter on one mesh axis, a size that does not divide,
        or a rule that names a mesh axis which does not exist.
    """
    table = dict(rules)
    for logical, axis in rules:
        if axis is not None and axis not in mesh.shape:
            raise InputError(f"rule {logical}->{axis}: mesh axes are {list(mesh.shape)}")
    specs = nn.get_partition_spec(boxed)
    shapes = nn.meta.unbox(boxed)
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)

    def one(path: Any, spec: PartitionSpec, leaf: Any) -> NamedSharding:
        names = tuple(spec) + (None,) * (len(leaf.shape) - len(tuple(spec)))
        axes = [None if name is None else table.get(name) for name in names]
        _validate(jax.tree_util.keystr(path), names, axes, leaf.shape, mesh.shape)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(one, specs, shapes, is_leaf=is_spec)


def _validate(
    name: str,
    logical: Sequence[str | None],
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh_shape: Mapping[str, int],
) -> None:
    used = [axis for axis in axes if axis is not None]
    if len(used) != len(set(used)):
        raise InputError(f"{name} {tuple(shape)}: axes {logical} put two dims on one mesh axis")
    for size, axis, word in zip(shape, axes, logical):
        if axis is not None and size % mesh_shape[axis]:
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            raise InputError(
                f"{name} {tuple(shape)}: {word}={size} does not divide over mesh axis {axis!r} "
                f"of {mesh_shape[axis]}; it may be {', '.join(map(str, divisors[-12:]))}"
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, lead: int = 0) -> NamedSharding:
    """Rows over BATCH_AXES; `lead` dimensions before them are not cut."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * lead, BATCH_AXES))


def bytes_per_device(params: Any, shardings: Any) -> int:
    """Returns the bytes of `params` (arrays or shapes) that each device holds."""
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(s.shard_shape(p.shape)) * p.dtype.itemsize for p, s in leaves)
