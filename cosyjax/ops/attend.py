"""Softmax attention over given keys, with a mask and no cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosyjax.ops import product


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, compute: str = "float32"
) -> jax.Array:
    """Weighs values by softmax(query . key / sqrt(P)), the softmax in float32.

    Args:
      query: [B, T, H, P].
      key: [B, S, H, P].
      value: [B, S, H, P]; what is masked must still be finite.
      mask: [B, T or 1, S], True = may look. A row that may look nowhere gets the mean of all
        values rather than NaN.
      compute: operand type of the products.

    Returns:
      [B, T, H, P] float32.
    """
    # Heads first: with heads between, XLA's CPU backend refuses a bfloat16 product of the gradient.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    scaled = query * jnp.float32(query.shape[-1] ** -0.5)
    scores = product.einsum("bhtp,bhsp->bhts", scaled, key, compute=compute)
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    return product.einsum("bhts,bhsp->bhtp", weights, value, compute=compute).swapaxes(1, 2)


def attend_by_head(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, *, compute: str = "float32"
) -> jax.Array:
    """`attend`, one head of one row after another, and once more in the backward pass.

    The weights of one head stay in a core's cache; those of all heads and layers of a batch go
    through memory several times, forward and backward, which takes longer than making them twice.

    Args:
      query: [B * H, T, P], the heads of a row side by side.
      key: [B * H, S, P].
      value: [B * H, S, P]; what is masked must still be finite.
      mask: [B, T, S], True = may look.
      compute: operand type of the products.

    Returns:
      [B * H, T, P] float32.
    """
    num_heads = query.shape[0] // mask.shape[0]
    scaled = query * jnp.float32(query.shape[-1] ** -0.5)

    @jax.checkpoint
    def one(index: jax.Array, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        scores = product.einsum("tp,sp->ts", query, key, compute=compute)
        scores = jnp.where(mask[index // num_heads], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        return product.einsum("ts,sp->tp", weights, value, compute=compute)

    heads = jnp.arange(query.shape[0])
    return jax.lax.map(lambda given: one(*given), (heads, scaled, key, value))
