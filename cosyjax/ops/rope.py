"""Rotary positions, rotate-half layout (arXiv 2104.09864; the layout of GPT-NeoX and Qwen2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosyjax.ops import product


def rotate(
    x: jax.Array,
    positions: jax.Array,
    theta: float,
    *,
    scale: float = 1.0,
    result: jnp.dtype | type = jnp.float32,
) -> jax.Array:
    """Turns each pair (i, i + P/2) of a head by positions * theta^(-2i/P).

    Args:
      x: [B, T, H, P], P even.
      positions: [B, T] (or [1, T]) absolute positions, integer.
      theta: base of the wavelengths.
      scale: multiplies what comes out.
      result: type to which that is rounded.

    Returns:
      [B, T, H, P] of type `result`.
    """
    half = x.shape[-1] // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / half
    frequencies = 1.0 / jnp.power(jnp.float32(theta), exponents)
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x = x.astype(jnp.float32)
    if product.on_tpu():
        turned = x * jnp.tile(cos, 2) + _swapped(x) * jnp.concatenate([-sin, sin], axis=-1)
    else:
        first, second = jnp.split(x, 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return (turned * scale).astype(result)


def _swapped(x: jax.Array) -> jax.Array:
    """[..., P] with its halves exchanged, by a product with a permutation, which changes no bit.

    Halves of a head of 64 fill a quarter of a TPU's vector lanes. Taken apart they cost the step of
    the released LM a fifth of its bytes; the product costs it 2 % of its FLOPs.
    """
    width = x.shape[-1]
    permutation = jnp.roll(jnp.eye(width, dtype=jnp.float32), width // 2, axis=1)
    return product.einsum("...p,pq->...q", x, permutation)
