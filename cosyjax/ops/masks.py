"""Which frames are there, and which frames attention may see.

True = valid, True = may look. CosyVoice 2 (arXiv 2412.10117) section 2.4 trains the flow under
four masks; all of them say "frame i sees frame j < (i // chunk + 1) * chunk", with a chunk of
everything (non-causal), of one frame (causal), of M frames or of 2M frames. A mask is therefore
only a chunk length, which may differ from row to row.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError, nearest

EVERYTHING = 1 << 30  # a chunk that is longer than any utterance: the non-causal mask
MASK_KINDS = ("full", "causal", "chunk", "double_chunk")


def valid(lengths: jax.Array, num_frames: int) -> jax.Array:
    """int [B] -> bool [B, num_frames]: True for the first `lengths` frames of a row."""
    return jnp.arange(num_frames) < lengths[:, None]


def kind_index(name: str) -> int:
    """The number of a mask kind, as `chunk_of_kind` takes it."""
    if name not in MASK_KINDS:
        raise InputError(f"mask {name!r} is unknown; {nearest(name, MASK_KINDS)}")
    return MASK_KINDS.index(name)


def chunk_of_kind(kind: jax.Array | int, chunk: int) -> jax.Array:
    """The chunk length that makes one of the four masks.

    Args:
      kind: int, index in MASK_KINDS, of any shape.
      chunk: M, in the frames of the floor that will use the mask.

    Returns:
      int32 of the shape of `kind`.
    """
    return jnp.asarray([EVERYTHING, 1, chunk, 2 * chunk], jnp.int32)[jnp.asarray(kind)]


def chunk_mask(
    queries: jax.Array, keys: jax.Array, chunk: jax.Array | int, left_chunks: int = -1
) -> jax.Array:
    """Says which keys a query may see, from absolute positions.

    Args:
      queries: int [..., Q] frame numbers.
      keys: int [..., K] frame numbers; negative ones are before the start and are never seen.
      chunk: frames per chunk, a number or int [...]; EVERYTHING for no limit.
      left_chunks: chunks before its own that a query sees; -1 for all.

    Returns:
      bool [..., Q, K].
    """
    chunk = jnp.asarray(chunk, jnp.int32)[..., None]
    first = (queries // chunk) * chunk
    may_look = keys[..., None, :] < (first + chunk)[..., None]
    if left_chunks >= 0:
        may_look &= keys[..., None, :] >= (first - left_chunks * chunk)[..., None]
    return may_look & (keys[..., None, :] >= 0)


def whole(
    lengths: jax.Array, num_frames: int, chunk: jax.Array | int, left_chunks: int = -1
) -> jax.Array:
    """The mask of a whole padded batch: bool [B, F, F], padding is never seen."""
    frames = jnp.arange(num_frames)[None]
    may_look = chunk_mask(frames, frames, chunk, left_chunks)
    return may_look & valid(lengths, num_frames)[:, None, :]


def ends(lengths: jax.Array, num_frames: int, chunk: jax.Array | int) -> jax.Array:
    """The mask of `whole` without left limit, as the end of what each frame sees.

    Returns:
      int32 [B, F]: frame i sees the frames before its end.
    """
    frames = jnp.arange(num_frames, dtype=jnp.int32)
    chunk = jnp.asarray(chunk, jnp.int32)[..., None]
    # The first frame of the next chunk; a chunk of EVERYTHING stays within int32.
    after = frames - frames % chunk + chunk
    return jnp.minimum(after, lengths[:, None]).astype(jnp.int32)


def window(
    position: jax.Array, num_valid: jax.Array, sizes: tuple[int, int], **limits: Any
) -> jax.Array:
    """The mask of one step: new frames look at a cache that lies before them, and at themselves.

    Args:
      position: int [B], the absolute number of the first new frame.
      num_valid: int [B], how many of the new frames are there.
      sizes: (frames in the cache, new frames).
      **limits: `chunk` and `left_chunks` of `chunk_mask`.

    Returns:
      bool [B, new, cache + new]. The cache is aligned to its right end.
    """
    num_cached, num_new = sizes
    queries = position[:, None] + jnp.arange(num_new)
    keys = position[:, None] + jnp.arange(-num_cached, num_new)
    may_look = chunk_mask(queries, keys, **limits)
    return may_look & (jnp.arange(-num_cached, num_new) < num_valid[:, None])[:, None, :]
