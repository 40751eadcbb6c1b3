"""What chunked attention remembers: the keys and values of the frames before the present ones.

The cache is aligned to its right end: its last entry is the frame just before the next call. The
distance from a query to a cached key is therefore the same in every call, and when an utterance
outgrows the cache the oldest frames fall out. Heads stand before frames, as the products of the
attention read them: any other order would be copied in every call.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.ops import masks, product


class ChunkCache(struct.PyTreeNode):
    """Fixed shapes; frames before the start are hidden through `position`."""

    key: jax.Array  # [B, H, L, P], float32 or, where products take bfloat16, bfloat16
    value: jax.Array  # [B, H, L, P]
    position: jax.Array  # int32 [B], frames spoken so far


def init_cache(
    batch: int, max_frames: int, num_heads: int, head_dim: int, compute: str
) -> ChunkCache:
    """Returns a cache of `max_frames` frames in which nothing has been spoken."""
    # Products round their operands to bfloat16 anyway, so a bfloat16 cache changes no result.
    dtype = jnp.bfloat16 if compute == "bfloat16" else jnp.float32
    zeros = jnp.zeros((batch, num_heads, max_frames, head_dim), dtype)
    return ChunkCache(zeros, zeros, jnp.zeros((batch,), jnp.int32))


def extend(cache: ChunkCache, key: jax.Array, value: jax.Array) -> ChunkCache:
    """Returns the cache for the next call: the new keys and values [B, H, C, P] at its end."""

    def append(old: jax.Array, new: jax.Array) -> jax.Array:
        num_new, num_cached = new.shape[2], old.shape[2]
        new = new.astype(old.dtype)[:, :, max(num_new - num_cached, 0) :]
        return jnp.concatenate([old[:, :, new.shape[2] :], new], axis=2)

    position = cache.position + key.shape[2]
    return ChunkCache(append(cache.key, key), append(cache.value, value), position)


def attend_cached(
    query: jax.Array,
    parts: tuple[ChunkCache | None, jax.Array, jax.Array],
    mask: jax.Array,
    *,
    bias: jax.Array | float = 0.0,
    compute: str = "float32",
) -> jax.Array:
    """Attention over the cache and the new frames, without putting them together first.

    Args:
      query: [B, H, C, P], scaled.
      parts: the cache, or None for a whole utterance (L = 0); new keys and values [B, H, C, P].
      mask: bool [B or 1, C, L + C], True = may look.
      bias: added to the scores, [B or 1, H, C, L + C].
      compute: operand type of the products.

    Returns:
      [B, H, C, P] float32.
    """
    cache, key, value = parts
    score = lambda keys: product.einsum("bhtp,bhsp->bhts", query, keys, compute=compute)
    weigh = lambda w, values: product.einsum("bhts,bhsp->bhtp", w, values, compute=compute)
    scores = score(key)
    if cache is not None:
        scores = jnp.concatenate([score(cache.key), scores], axis=-1)
    scores = jnp.where(mask[:, None], scores + bias, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if cache is None:
        return weigh(weights, value)
    num_cached = cache.key.shape[2]
    old = weigh(weights[..., :num_cached], cache.value)
    return old + weigh(weights[..., num_cached:], value)


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
    num_cached = 0 if cache is None else cache.key.shape[2]
    num_valid = jnp.full((batch,), num_new, jnp.int32)
    return masks.window(position, num_valid, (num_cached, num_new), chunk=chunk)
