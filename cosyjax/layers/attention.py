"""Grouped-query attention with rotary positions and an explicit cache of fixed size.

The whole call and the step run the same lines: what a query may see follows from its absolute
position in the sequence and from the number of valid entries, with or without a cache.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.layers.basic import Dense
from cosyjax.ops import product, rope


class KVCache(struct.PyTreeNode):
    """Keys and values of all positions so far; entries from `position` on are not yet valid."""

    k: jax.Array  # [B, K, L, P] float32
    v: jax.Array  # [B, K, L, P] float32
    position: jax.Array  # [B] int32, valid entries of each row

    @classmethod
    def zeros(cls, batch: int, num_kv_heads: int, max_length: int, head_dim: int) -> KVCache:
        shape = (batch, num_kv_heads, max_length, head_dim)
        # Two arrays, not one twice: a buffer cannot be donated twice.
        k, v = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        return cls(k, v, jnp.zeros((batch,), jnp.int32))


class Span(struct.PyTreeNode):
    """What is known of the positions of one call; None stands for "all of them, one sequence"."""

    lengths: jax.Array | None = None  # [B] int32 valid positions of this call, padding on the right
    segment_ids: jax.Array | None = None  # [B, T] int32 packed sequences; only without a cache
    positions: jax.Array | None = None  # [B, T] int32 rotary positions of packed sequences


class GroupedQueryAttention(nn.Module):
    """Causal self-attention; every group of num_heads / num_kv_heads queries shares keys.

    With `fused`, an inference-only form of the parameters, queries, keys and values come from
    one product.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    features: int
    rope_theta: float = 1e6
    compute: str = "float32"
    fused: bool = False

    def setup(self) -> None:
        widths = {"heads": self.num_heads * self.head_dim}
        widths["kv_heads"] = self.num_kv_heads * self.head_dim
        dense = lambda axis: Dense(
            widths[axis], ("embed", axis), compute=self.compute
        )  # noqa: E731
        if self.fused:
            width = widths["heads"] + 2 * widths["kv_heads"]
            self.qkv = Dense(width, ("embed", None), compute=self.compute)
        else:
            self.query, self.key, self.value = dense("heads"), dense("kv_heads"), dense("kv_heads")
        self.out = Dense(self.features, ("heads", "embed"), use_bias=False, compute=self.compute)

    def init_state(self, batch: int, max_length: int) -> KVCache:
        """Returns an empty cache for `max_length` positions."""
        return KVCache.zeros(batch, self.num_kv_heads, max_length, self.head_dim)

    def __call__(self, x: jax.Array, span: Span = Span()) -> jax.Array:
        """x: [B, T, D] -> [B, T, D]; position t sees positions <= t of its own sequence."""
        return self.advance(x, None, span)[0]

    def step(self, x: jax.Array, cache: KVCache, span: Span = Span()) -> tuple[jax.Array, KVCache]:
        """x: [B, T, D], the next T positions (`span.lengths` of them valid) -> (y, cache)."""
        y, new = self.advance(x, cache, span)
        assert new is not None
        return y, new

    def advance(
        self, x: jax.Array, cache: KVCache | None, span: Span
    ) -> tuple[jax.Array, KVCache | None]:
        """Both of the above.

        Args:
          x: [B, T, D].
          cache: what came before; None attends within x alone and keeps nothing.
          span: validity, segments and rotary positions of x.

        Returns:
          y: [B, T, D] float32; outside the valid positions its value means nothing.
          cache: with the valid positions of x appended, or None.
        """
        batch, num = x.shape[:2]
        start = jnp.zeros((batch,), jnp.int32) if cache is None else cache.position
        lengths = jnp.full((batch,), num, jnp.int32) if span.lengths is None else span.lengths
        slots = start[:, None] + jnp.arange(num, dtype=jnp.int32)  # [B, T]
        positions = slots if span.positions is None else span.positions
        q, k, v = self._project(x)
        q = rope.rotate(q, positions, self.rope_theta)
        k = rope.rotate(k, positions, self.rope_theta)
        valid = (jnp.arange(num) < lengths[:, None])[..., None, None]
        k, v = (jnp.swapaxes(jnp.where(valid, a, 0.0), 1, 2) for a in (k, v))  # [B, K, T, P]
        if cache is not None:
            k, v = write(cache.k, k, start), write(cache.v, v, start)
            cache = KVCache(k, v, start + lengths)
        keys = jnp.arange(k.shape[2], dtype=jnp.int32)
        mask = (keys <= slots[..., None]) & (keys < (start + lengths)[:, None, None])
        if span.segment_ids is not None:
            mask &= span.segment_ids[:, :, None] == span.segment_ids[:, None, :]
        return self.out(self._attend(q, k, v, mask)), cache

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, T, D] -> queries [B, T, H, P], keys and values [B, T, K, P]."""
        if self.fused:
            heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
            q, k, v = jnp.split(self.qkv(x), (heads, heads + kv), axis=-1)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        split = lambda a: a.reshape(*a.shape[:2], -1, self.head_dim)  # noqa: E731
        return split(q), split(k), split(v)

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        """q [B, T, H, P], k and v [B, K, L, P], mask [B, T, L] -> [B, T, H * P]."""
        batch, num = q.shape[:2]
        groups = self.num_heads // self.num_kv_heads
        q = q.reshape(batch, num, self.num_kv_heads, groups, self.head_dim)
        q = q * (self.head_dim**-0.5)
        scores = product.einsum("btkgp,bklp->bkgtl", q, k, compute=self.compute)
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1)
        y = product.einsum("bkgtl,bklp->btkgp", weights, v, compute=self.compute)
        return y.reshape(batch, num, -1)


def write(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """Puts `new` [B, K, T, P] into `cache` [B, K, L, P] from `position` [B] on.

    What does not fit is dropped. One position goes in by a scatter, which XLA does in place;
    several by a gather and a select over the cache, which no platform runs as a slow loop.
    """
    batch, _, num, _ = new.shape
    if num == 1:
        rows = jnp.arange(batch)
        return cache.at[rows, :, position].set(new[:, :, 0], mode="drop", unique_indices=True)
    source = jnp.arange(cache.shape[2], dtype=jnp.int32) - position[:, None]  # [B, L]
    index = jnp.clip(source, 0, num - 1)[:, None, :, None]
    fresh = ((source >= 0) & (source < num))[:, None, :, None]
    return jnp.where(fresh, jnp.take_along_axis(new, index, axis=2), cache)
