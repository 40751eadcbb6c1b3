"""What chunked attention remembers: the keys and values of the frames before the present ones.

The cache is aligned to its right end: its last entry is the frame just before the next call. The
distance from a query to a cached key is therefore the same in every call, and when an utterance
outgrows the cache the oldest frames fall out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.ops import masks


class ChunkCache(struct.PyTreeNode):
    """Fixed shapes; frames before the start are hidden through `position`."""

    key: jax.Array  # [B, L, H, P], float32 or, where products take bfloat16, bfloat16
    value: jax.Array  # [B, L, H, P]
    position: jax.Array  # int32 [B], frames spoken so far


def init_cache(
    batch: int, max_frames: int, num_heads: int, head_dim: int, compute: str
) -> ChunkCache:
    """Returns a cache of `max_frames` frames in which nothing has been spoken."""
    # Products round their operands to bfloat16 anyway, so a bfloat16 cache changes no result.
    dtype = jnp.bfloat16 if compute == "bfloat16" else jnp.float32
    zeros = jnp.zeros((batch, max_frames, num_heads, head_dim), dtype)
    return ChunkCache(zeros, zeros, jnp.zeros((batch,), jnp.int32))


def extend(
    cache: ChunkCache | None, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, jax.Array, ChunkCache | None]:
    """Appends new keys and values [B, C, H, P].

    Returns:
      The keys and values that the new frames may look at, [B, L + C, H, P], and the cache for the
      next call. Without a cache (a whole utterance in one call) the new ones alone, and None.
    """
    if cache is None:
        return key, value, None
    num_new, num_cached = key.shape[1], cache.key.shape[1]
    keys = jnp.concatenate([cache.key, key.astype(cache.key.dtype)], axis=1)
    values = jnp.concatenate([cache.value, value.astype(cache.value.dtype)], axis=1)
    after = ChunkCache(
        keys[:, keys.shape[1] - num_cached :],
        values[:, values.shape[1] - num_cached :],
        cache.position + num_new,
    )
    return keys, values, after


def default_mask(cache: ChunkCache | None, x: jax.Array, chunk: int) -> jax.Array:
    """The mask of a layer used alone: all frames of `x` [B, C, D] are valid.

    Args:
      cache: the cache, or None for a whole utterance.
      x: the new frames.
      chunk: frames per chunk; 0 lets every frame see every other.
    """
    batch, num_new = x.shape[:2]
    chunk = chunk or masks.EVERYTHING
    position = jnp.zeros((batch,), jnp.int32) if cache is None else cache.position
    num_cached = 0 if cache is None else cache.key.shape[1]
    num_valid = jnp.full((batch,), num_new, jnp.int32)
    return masks.window(position, num_valid, (num_cached, num_new), chunk=chunk)
