"""Where all lies: the state by its logical axes, the batch by its rows, and a table of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.train.optim import Optimizer
from cosyjax.train.state import TrainState
from cosyjax.train.task import Batch


class Layout(NamedTuple):
    """The abstract state and where its leaves lie."""

    mesh: Mesh
    shapes: TrainState  # of ShapeDtypeStruct
    shardings: TrainState  # of NamedSharding

    @property
    def abstract(self) -> TrainState:
        """Shapes that carry their shardings, for a restore."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.shapes,
            self.shardings,
        )


def make_layout(
    init: Any, boxed: Any, optimizers: Mapping[str, Optimizer], rules: sharding.Rules, mesh: Mesh
) -> Layout:
    """Finds where the state lies; no memory is taken.

    Args:
      init: key -> TrainState.
      boxed: parameter shapes whose leaves carry logical axes, {group: tree}.
      optimizers: of the groups that train.
      rules: (logical axis, mesh axis) pairs.
      mesh: the mesh.

    Raises:
      InputError: an axis that does not divide or two dims on one mesh axis, naming the parameter.
    """
    shapes = jax.eval_shape(init, jax.random.key(0))
    whole = sharding.replicated(mesh)
    params = sharding.param_shardings(boxed, rules, mesh)
    opt_state = {
        group: optax.tree_utils.tree_map_params(
            optimizer.transform,
            lambda _, s: s,
            shapes.opt_state[group],
            params[group],
            transform_non_params=lambda _: whole,
        )
        for group, optimizer in optimizers.items()
    }
    ema = {group: params[group] for group in shapes.ema}
    where: Any = {"step": whole, "params": params, "opt_state": opt_state, "ema": ema}
    return Layout(mesh, shapes, TrainState(**where))


class Loader(NamedTuple):
    """Which share of every batch this process reads."""

    process: int  # counts those that read different rows
    num_processes: int  # fewer than the run has, where several lie on one tensor axis


def find_loader(mesh: Mesh, batch_size: int, accumulate: int = 1) -> Loader:
    """Processes that hold the same rows read the same share.

    Raises:
      InputError: the batch does not divide over the devices, or by the microbatches.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shards * accumulate):
        raise InputError(
            f"batch_size={batch_size} must be a multiple of data x fsdp x accumulate = "
            f"{mesh.shape['data']} x {mesh.shape['fsdp']} x {accumulate}; "
            f"use {-(-batch_size // (shards * accumulate)) * shards * accumulate}"
        )
    rows: dict[int, set[int]] = {}
    table: Any = sharding.batch_sharding(mesh).devices_indices_map((batch_size,))
    for device, (part,) in table.items():
        rows.setdefault(device.process_index, set()).add(part.start or 0)
    shares = sorted({tuple(sorted(starts)) for starts in rows.values()})
    own = tuple(sorted(rows.get(jax.process_index(), set())))
    if own not in shares or sum(map(len, shares)) != shards:
        raise InputError(
            f"mesh {dict(mesh.shape)}: the processes hold overlapping parts of the batch; choose "
            "data x fsdp as a multiple or a divisor of the number of processes"
        )
    return Loader(shares.index(own), len(shares))


def place_batch(
    rows: Mapping[str, np.ndarray], mesh: Mesh, *, num_processes: int = 1, accumulate: int = 1
) -> Batch:
    """Global arrays from the rows of this process.

    Args:
      rows: arrays whose first dimension is the rows.
      mesh: where they go.
      num_processes: that read other rows.
      accumulate: microbatches that they will be cut into.

    Raises:
      InputError: so many rows do not divide; a pipeline of buckets may give any number.
    """
    where = sharding.batch_sharding(mesh)
    for name, x in rows.items():
        check_rows(len(x) * num_processes, mesh, accumulate, name)
    if jax.process_count() == 1:
        return jax.device_put(dict(rows), where)
    return {
        name: jax.make_array_from_process_local_data(where, np.asarray(x))
        for name, x in rows.items()
    }


def check_rows(num_rows: int, mesh: Mesh, accumulate: int, name: str) -> None:
    """Raises InputError unless the devices and microbatches divide the rows of a batch."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if num_rows % parts:
        raise InputError(
            f"a batch of {num_rows} rows ({name}) does not divide by data x fsdp "
            f"x accumulate = {parts}; change data.batch_size, or the mesh"
        )


def describe(layout: Layout, config_rules: sharding.Rules, boxed: Any) -> str:
    """A table for the start of a run: parameters, how they are cut, bytes per device."""
    lines = []
    for group, tree in layout.shapes.params.items():
        lines += _rows(group, tree, layout.shardings.params[group])
    width = max(len(row[0]) for row in lines) if lines else 0
    text = [f"{a:{width}}  {b:>20}  {c:28} {d:>12}" for a, b, c, d in lines]
    named = {n for s in _specs(boxed) for n in s if n is not None}
    free = sorted(named - {rule for rule, axis in config_rules if axis is not None})
    mesh = " x ".join(f"{axis} {size}" for axis, size in layout.mesh.shape.items())
    text.append(f"mesh {mesh}; batch over data x fsdp")
    if free:
        text.append(f"replicated, no rule: {', '.join(free)}")
    total = 0
    for part in ("params", "opt_state", "ema"):
        tree, where = getattr(layout.shapes, part), getattr(layout.shardings, part)
        size = sharding.bytes_per_device(tree, where)
        total += size
        text.append(f"{part}: {size:,} bytes per device")
    frozen = sorted(set(layout.shapes.params) - set(layout.shapes.opt_state))
    if frozen:
        text.append(f"frozen: {', '.join(frozen)}")
    text.append(f"state: {total:,} bytes per device")
    return "\n".join(text)


def _rows(group: str, tree: Any, shardings: Any) -> list[tuple[str, str, str, str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    rows = []
    for (path, leaf), where in zip(leaves, jax.tree.leaves(shardings), strict=True):
        name = ".".join([group, *(str(getattr(p, "key", p)) for p in path)])
        spec = tuple(where.spec)
        cut = " x ".join(str(axis) for axis in spec if axis) or "replicated"
        size = int(np.prod(where.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        rows.append((name, str(list(leaf.shape)), cut, f"{size:,}"))
    return rows


def _specs(boxed: Any) -> list[Any]:
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)
    return jax.tree.leaves(nn.get_partition_spec(boxed), is_leaf=is_spec)
