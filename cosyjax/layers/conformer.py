"""Attention block with relative positions (Transformer-XL), masked in chunks, that streams.

The flow encoder of CosyVoice 2 (arXiv 2412.10117, section 2.4) is a stack of these: no
convolution module, no half-step feed-forward.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.layers.basic import Dense, LayerNorm, boxed
from cosyjax.layers.chunk_cache import (
    ChunkCache,
    attend_cached,
    default_mask,
    extend,
    init_cache,
)
from cosyjax.ops import product

BLOCK_EPSILON = 1e-12


def distance_table(num_queries: int, num_keys: int, dim: int) -> jax.Array:
    """Sinusoids of the distances from a query back to a key, where queries are the last keys.

    Returns:
      [num_keys + num_queries - 1, dim] float32; row m is distance num_keys - 1 - m, sines on even
      and cosines on odd channels.
    """
    distance = jnp.arange(num_keys - 1, -num_queries, -1, dtype=jnp.float32)
    falling = np.arange(0, dim, 2, dtype=np.float32) * np.float32(-math.log(10000.0) / dim)
    angle = distance[:, None] * np.exp(falling.astype(np.float64)).astype(np.float32)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, dim)


def by_key(scores: jax.Array) -> jax.Array:
    """Turns scores by distance into scores by key.

    Args:
      scores: [..., Q, K + Q - 1], column m as in `distance_table`.

    Returns:
      [..., Q, K]; entry (i, j) is column Q - 1 - i + j of row i.
    """
    *lead, num_queries, num_columns = scores.shape
    flat = jnp.pad(scores, [(0, 0)] * len(lead) + [(0, 0), (1, 0)])
    flat = flat.reshape(*lead, num_columns + 1, num_queries)[..., 1:, :]
    return flat.reshape(*lead, num_queries, num_columns)[..., : num_columns - num_queries + 1]


class RelativeAttention(nn.Module):
    """Self-attention whose scores add what the distance says: [B, T, D] -> [B, T, D]."""

    embed_dim: int
    num_heads: int
    chunk: int = 0  # frames per mask chunk where no mask is given; 0 sees everything
    compute: str = "float32"

    def setup(self) -> None:
        dense = lambda axes, bias=True: Dense(
            self.embed_dim, axes=axes, use_bias=bias, compute=self.compute
        )
        self.query, self.key, self.value = (dense(("embed", "heads")) for _ in range(3))
        self.position = dense(("embed", "heads"), bias=False)
        self.out = dense(("heads", "embed"))
        shape = (self.num_heads, self.embed_dim // self.num_heads)
        init = boxed(nn.initializers.xavier_uniform(), ("heads", "head_dim"))
        self.content_bias = self.param("content_bias", init, shape, jnp.float32)
        self.position_bias = self.param("position_bias", init, shape, jnp.float32)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return self.step(x, None, mask)[0]

    def init_state(self, batch: int, max_frames: int) -> ChunkCache:
        """Returns an empty cache of `max_frames` frames."""
        head_dim = self.embed_dim // self.num_heads
        return init_cache(batch, max_frames, self.num_heads, head_dim, self.compute)

    def step(
        self, x: jax.Array, state: ChunkCache | None, mask: jax.Array | None = None
    ) -> tuple[jax.Array, ChunkCache | None]:
        """Advances by whole mask chunks.

        Args:
          x: [B, C, D].
          state: cache of L frames, or None for a whole utterance (L = 0).
          mask: bool [B, C, L + C]; by default chunks of `chunk` frames, all of them valid.
        """
        if mask is None:
            mask = default_mask(state, x, self.chunk)
        heads = lambda y: y.reshape(*y.shape[:-1], self.num_heads, -1)
        query = heads(self.query(x))
        # Heads first, see `layers.chunk_cache`.
        key, value = (heads(y).swapaxes(1, 2) for y in (self.key(x), self.value(x)))
        distances = heads(self.position(distance_table(x.shape[1], mask.shape[2], self.embed_dim)))
        scale = jnp.float32(query.shape[-1] ** -0.5)
        toward = lambda bias: ((query + bias) * scale).swapaxes(1, 2)
        place = product.einsum(
            "bhtp,mhp->bhtm", toward(self.position_bias), distances, compute=self.compute
        )
        y = attend_cached(
            toward(self.content_bias),
            (state, key, value),
            mask,
            bias=by_key(place),
            compute=self.compute,
        )
        state = None if state is None else extend(state, key, value)
        return self.out(y.swapaxes(1, 2).reshape(*x.shape)), state


class ConformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): [B, T, D] -> [B, T, D]."""

    embed_dim: int
    num_heads: int
    mlp_dim: int
    chunk: int = 0
    compute: str = "float32"

    def setup(self) -> None:
        self.attention_norm = LayerNorm(BLOCK_EPSILON)
        self.attention = RelativeAttention(self.embed_dim, self.num_heads, self.chunk, self.compute)
        self.mlp_norm = LayerNorm(BLOCK_EPSILON)
        self.mlp_in = Dense(self.mlp_dim, axes=("embed", "mlp"), compute=self.compute)
        self.mlp_out = Dense(self.embed_dim, axes=("mlp", "embed"), compute=self.compute)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return self.step(x, None, mask)[0]

    def init_state(self, batch: int, max_frames: int) -> ChunkCache:
        """Returns an empty cache of `max_frames` frames."""
        return self.attention.init_state(batch, max_frames)

    def step(
        self, x: jax.Array, state: ChunkCache | None, mask: jax.Array | None = None
    ) -> tuple[jax.Array, ChunkCache | None]:
        """Advances by whole mask chunks; arguments as in `RelativeAttention.step`."""
        y, state = self.attention.step(self.attention_norm(x), state, mask)
        x = x + y
        return x + self.mlp_out(jax.nn.silu(self.mlp_in(self.mlp_norm(x)))), state


class InputEmbed(nn.Module):
    """Dense, norm, times sqrt(D): what stands before a stack of blocks. [B, T, D] -> [B, T, D]."""

    embed_dim: int
    compute: str = "float32"

    def setup(self) -> None:
        self.dense = Dense(self.embed_dim, axes=("embed", None), compute=self.compute)
        self.norm = LayerNorm(1e-5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.dense(x)) * jnp.float32(math.sqrt(self.embed_dim))
