"""Logical axis names to mesh axes: the only place that writes a PartitionSpec.

Modules name the axes of their parameters ("embed", "heads", ...). A list of rules, part of the
config, says which mesh axis each name lies on. An axis without a rule is replicated. Two
dimensions on one mesh axis, or a size that the mesh does not divide, are errors that name the
parameter: nothing is replicated silently.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cosyjax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH = "batch"  # the logical name of a batch's rows
BATCH_AXES = ("data", "fsdp")  # on which they lie
Rules = Sequence[tuple[str, str | None]]

DEFAULT_RULES: Rules = (
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
)


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns a mesh over the first `data * fsdp * tensor` devices; one size may be -1, the rest.

    Several slices of TPUs, which a slower network connects, each hold whole copies of the
    parameters: they lie along `data`.

    Args:
      data: copies of the parameters.
      fsdp: parts of the parameters and of the batch.
      tensor: parts of heads, mlp and vocabulary.
      devices: all that there are by default.

    Raises:
      InputError: more devices than there are, a rest that does not come out whole, or a `data`
        that the slices do not divide.
    """
    devices = jax.devices() if devices is None else devices
    fixed = math.prod(size for size in (data, fsdp, tensor) if size != -1)
    rest = len(devices) // fixed
    if -1 in (data, fsdp, tensor) and fixed * rest != len(devices):
        raise InputError(
            f"a mesh of {data} x {fsdp} x {tensor}: {len(devices)} devices do not divide by {fixed}"
        )
    shape = tuple(rest if size == -1 else size for size in (data, fsdp, tensor))
    wanted = math.prod(shape)
    if wanted > len(devices):
        raise InputError(
            f"a mesh of {data} x {fsdp} x {tensor} needs {wanted} devices; {len(devices)} are here"
        )
    return Mesh(_arrange(shape, devices[:wanted]), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def _arrange(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices so that neighbours along the last axes are neighbours in the machine."""
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    split = {"allow_split_physical_axes": True}
    if num_slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, **split)
    if shape[0] % num_slices:
        raise InputError(
            f"a mesh of {' x '.join(map(str, shape))} over {num_slices} slices: data must be a "
            f"multiple of {num_slices}, so that fsdp and tensor stay within a slice"
        )
    within = (shape[0] // num_slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(within, (num_slices, 1, 1), devices, **split)


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


@contextlib.contextmanager
def context(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """While a program is traced: the mesh and rules that `constrain` and `shard_map` read.

    Entered within the function that is jitted, whose arguments say by where they lie which devices
    run it. A mesh of one device needs neither, and is left out.
    """
    if mesh.size == 1:
        yield
        return
    named = ((BATCH, BATCH_AXES), *rules)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(named):
        yield


def placed(function: Callable[..., Any], mesh: Mesh, rules: Rules) -> Callable[..., Any]:
    """The function within `context`, for a `jax.jit`."""

    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        with context(mesh, rules):
            return function(*args)

    return inner


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Lays `x` out by the logical names of its dimensions; unchanged outside of `context`.

    What flows through a model has rows on "batch", which takes the axis that the parameters'
    "embed" lies on: its width is None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, _spec(axes))


def keep_rows(x: jax.Array) -> jax.Array:
    """Lays what flows through a model out by its rows alone: `constrain` to [B, ...]."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gather(axes: tuple[str | None, ...], x: jax.Array) -> jax.Array:
    """Brings together what the axes of the batch hold parts of, before a product uses it.

    Left to itself the compiler may sum partial products over the chips instead, which moves far
    more than the parameter. The gradient goes back to where its parts lie.

    Args:
      axes: logical names of the dimensions of `x`; () leaves it as it is.
      x: a parameter, or what it was rounded to.
    """
    if not axes:
        return x
    of_batch = lambda name: name is not None and bool({*mesh_axes(name)} & {*BATCH_AXES})
    return constrain(x, *(None if of_batch(name) else name for name in axes))


def _gather_forward(axes: tuple[str | None, ...], x: jax.Array) -> tuple[jax.Array, None]:
    return gather(axes, x), None


def _gather_backward(axes: tuple[str | None, ...], _: None, cotangent: jax.Array) -> tuple[Any]:
    return (constrain(cotangent, *axes) if axes else cotangent,)


gather.defvjp(_gather_forward, _gather_backward)


def shard_map(
    function: Callable[..., Any], in_axes: Sequence[Any], out_axes: Any
) -> Callable[..., Any]:
    """The function run by every device on its part, its collectives written out by itself.

    Args:
      function: of arrays.
      in_axes: for each argument a tree of tuples of logical names, one name per dimension.
      out_axes: the same of the result.

    Returns:
      A function of whole arrays; outside of `context` `function` itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    is_axes = lambda leaf: isinstance(leaf, tuple) and all(
        name is None or isinstance(name, str) for name in leaf
    )
    specs = lambda tree: jax.tree.map(_spec, tree, is_leaf=is_axes)
    # The kernels of Pallas do not say along which axes their results are equal: no check.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(specs(axes) for axes in in_axes),
        out_specs=specs(out_axes),
        check_vma=False,
    )


def per_chip(
    function: Callable[..., Any], mesh: Mesh
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """A function that every chip runs by itself, for serving: nothing passes between them.

    Args:
      function: (params, *rest) -> results, of one chip.
      mesh: the chips.

    Returns:
      The function with a leading dimension of chips on the rest and the results, but not on the
      parameters, which every chip holds whole; and what gives a tree of shapes that dimension.
    """
    lead = PartitionSpec(MESH_AXES)

    def own(params: Any, *rest: Any) -> Any:
        results = function(params, *jax.tree.map(lambda x: x[0], rest))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], results)

    def mapped(params: Any, *rest: Any) -> Any:
        specs = (PartitionSpec(), *(lead,) * len(rest))
        run = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=lead, check_vma=False)
        return run(params, *rest)

    where = NamedSharding(mesh, lead)
    more = lambda x: jax.ShapeDtypeStruct((mesh.size, *x.shape), x.dtype, sharding=where)
    return mapped, lambda tree: jax.tree.map(more, tree)


def mesh_axes(logical: str) -> tuple[str, ...]:
    """The mesh axes of more than one device on which a logical axis lies; () outside of `context`.

    For collectives within `shard_map`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    (axes,) = tuple(_spec((logical,))) or (None,)
    named = (axes,) if isinstance(axes, str) else tuple(axes or ())
    return tuple(axis for axis in named if mesh.shape[axis] > 1)


def _spec(axes: Sequence[str | None]) -> PartitionSpec:
    table: dict[str, Any] = dict(nn.get_logical_axis_rules())
    return PartitionSpec(*(None if name is None else table.get(name) for name in axes))


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
