"""Attention heads over a mesh: which device holds which, and that none is cut in two."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError

ATTENDED = "attended"  # name of what a kernel's backward pass needs besides its operands
ROWS = ("batch", None, "heads", None)  # of [B, T, H, P]


def num_parts(logical: str) -> int:
    """Over how many devices a logical axis is cut; 1 outside of `sharding.context`."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in sharding.mesh_axes(logical))


def check_heads(num_heads: int, num_kv_heads: int) -> None:
    """Raises InputError where a device would hold a part of a head."""
    for logical, name, size in (
        ("heads", "num_heads", num_heads),
        ("kv_heads", "num_kv_heads", num_kv_heads),
    ):
        parts = num_parts(logical)
        if size % parts:
            divisors = [str(n) for n in range(1, size + 1) if size % n == 0]
            raise InputError(
                f"{name}={size} does not divide over the {parts} devices of mesh axis "
                f"{'x'.join(sharding.mesh_axes(logical))!r}, on which {logical!r} lies; it may "
                f"have {', '.join(divisors)}"
            )


def share(x: jax.Array, num_heads: int) -> jax.Array:
    """Repeats key or value heads as often as the devices that hold query heads need.

    A device that holds the query heads i n to (i + 1) n needs the keys of these alone.

    Args:
      x: [B, T, K, P].
      num_heads: H, a multiple of K.

    Returns:
      [B, T, K r, P], r the least divisor of H / K with which the heads divide over the devices.
    """
    parts, group = num_parts("heads"), num_heads // x.shape[2]
    fits = (r for r in range(1, group + 1) if group % r == 0 and x.shape[2] * r % parts == 0)
    times = next(fits, group)
    return x if times == 1 else jnp.repeat(x, times, axis=2)
