"""Rows of a batch that begin and end at places of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def shift_left(x: jax.Array, num: jax.Array) -> jax.Array:
    """Drops the first `num` [B] entries of each row of [B, T, ...] and puts zeros at its end."""
    padded = jnp.concatenate([x, jnp.zeros_like(x)], axis=1)
    cut = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, x.shape[1])
    return jax.vmap(cut)(padded, num)


def append(x: jax.Array, new: jax.Array, at: jax.Array) -> jax.Array:
    """Writes `new` [B, C, ...] into rows of [B, T, ...] from entry `at` [B] in 0..T on.

    Returns:
      [B, T + C, ...].
    """
    padded = jnp.concatenate([x, jnp.zeros_like(new)], axis=1)
    put = lambda row, new, start: jax.lax.dynamic_update_slice_in_dim(row, new, start, 0)
    return jax.vmap(put)(padded, new, at)
