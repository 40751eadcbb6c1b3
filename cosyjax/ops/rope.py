"""Rotary positions, rotate-half layout (arXiv 2104.09864; the layout of GPT-NeoX and Qwen2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Turns each pair (i, i + P/2) of a head by positions * theta^(-2i/P).

    Args:
      x: [B, T, H, P], P even.
      positions: [B, T] (or [1, T]) absolute positions, integer.
      theta: base of the wavelengths.

    Returns:
      [B, T, H, P] float32.
    """
    half = x.shape[-1] // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / half
    frequencies = 1.0 / jnp.power(jnp.float32(theta), exponents)
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1)
