"""Linear interpolation over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def stretch(x: jax.Array, num_frames: int) -> jax.Array:
    """Resamples [F, M] to [num_frames, M] linearly, with half-frame offsets and clamped edges.

    This is how the official code changes speed: the mel is stretched, the pitch stays.
    """
    source = (jnp.arange(num_frames, dtype=jnp.float32) + 0.5) * (x.shape[0] / num_frames) - 0.5
    source = jnp.clip(source, 0.0, x.shape[0] - 1)
    low = jnp.floor(source).astype(jnp.int32)
    high = jnp.minimum(low + 1, x.shape[0] - 1)
    weight = (source - low)[:, None]
    return x[low] * (1.0 - weight) + x[high] * weight
