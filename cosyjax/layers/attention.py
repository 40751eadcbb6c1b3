"""Grouped-query attention with rotary positions and an explicit cache of fixed size.

The whole call and the step run the same lines: what a query may see follows from its absolute
position in the sequence and from the number of valid entries, with or without a cache.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.layers.basic import Dense
from cosyjax.layers.joined import joined
from cosyjax.ops import attend, cudnn, heads, product, rope, splash

# How a call without a cache attends: "whole" is the reference, "by_head" saves memory on a CPU, the
# kernels save it on TPU ("splash") and GPU ("cudnn").
KERNELS = (*splash.KERNELS, cudnn.KERNEL)
ATTENTIONS = ("whole", "by_head", *KERNELS)


class KVCache(struct.PyTreeNode):
    """Keys and values of all positions so far; entries from `position` on are not yet valid.

    Rows and heads share one dimension and keys lie transposed: so each of the two products of a
    step takes its cache as it is stored. Any other order makes XLA copy the cache every step.
    """

    k: jax.Array  # [B * K, P, L] float32
    v: jax.Array  # [B * K, L, P] float32
    position: jax.Array  # [B] int32, valid entries of each row

    @classmethod
    def zeros(cls, batch: int, num_kv_heads: int, max_length: int, head_dim: int) -> KVCache:
        k = jnp.zeros((batch * num_kv_heads, head_dim, max_length), jnp.float32)
        v = jnp.zeros((batch * num_kv_heads, max_length, head_dim), jnp.float32)
        return cls(k, v, jnp.zeros((batch,), jnp.int32))

    def lengthened(self, max_length: int) -> KVCache:
        """Returns the cache with room for `max_length` positions."""
        before = [(0, 0)] * (self.v.ndim - 2)
        more = (0, max_length - self.v.shape[-2])
        k = jnp.pad(self.k, [*before, (0, 0), more])
        return self.replace(k=k, v=jnp.pad(self.v, [*before, more, (0, 0)]))


class Span(struct.PyTreeNode):
    """What is known of the positions of one call; None stands for "all of them, one sequence"."""

    lengths: jax.Array | None = None  # [B] int32 valid positions of this call, padding on the right
    segment_ids: jax.Array | None = None  # [B, T] int32 packed sequences; only without a cache
    positions: jax.Array | None = None  # [B, T] int32 rotary positions of packed sequences
    # Without a cache: make one of the T positions.
    keep: bool = struct.field(pytree_node=False, default=False)


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
    attention: str = "whole"
    join_qkv: bool = False

    def setup(self) -> None:
        widths = {"heads": self.num_heads * self.head_dim}
        widths["kv_heads"] = self.num_kv_heads * self.head_dim
        dense = lambda axis: Dense(widths[axis], ("embed", axis), compute=self.compute)
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
          cache: what came before; None attends within x alone.
          span: validity, segments and rotary positions of x.

        Returns:
          y: [B, T, D] float32; outside the valid positions its value means nothing.
          cache: with the valid positions of x appended; None without one, unless `span.keep`.

        Raises:
          InputError: heads that do not divide over the devices of a mesh.
        """
        heads.check_heads(self.num_heads, self.num_kv_heads)
        batch, num = x.shape[:2]
        start = jnp.zeros((batch,), jnp.int32) if cache is None else cache.position
        lengths = jnp.full((batch,), num, jnp.int32) if span.lengths is None else span.lengths
        slots = start[:, None] + jnp.arange(num, dtype=jnp.int32)  # [B, T]
        positions = slots if span.positions is None else span.positions
        q, k, v = self._project(x)
        q = rope.rotate(q, positions, self.rope_theta, **self._queries(cache))
        k = rope.rotate(k, positions, self.rope_theta)
        valid = (jnp.arange(num) < lengths[:, None])[..., None, None]
        k, v = jnp.where(valid, k, 0.0), jnp.where(valid, v, 0.0)
        rows = _rows_first(k).swapaxes(1, 2), _rows_first(v)  # [B * K, P, T], [B * K, T, P]
        if cache is not None:
            rows = write(cache.k, rows[0], start, 2), write(cache.v, rows[1], start, 1)
        if cache is None and self.attention in KERNELS:
            mixed = self._attend_by_kernel(q, k, v, span)
        else:
            keys = jnp.arange(rows[1].shape[1], dtype=jnp.int32)
            mask = (keys <= slots[..., None]) & (keys < (start + lengths)[:, None, None])
            if span.segment_ids is not None:
                mask &= span.segment_ids[:, :, None] == span.segment_ids[:, None, :]
            by_head = self.attention == "by_head" and cache is None
            mixed = (self._attend_by_head if by_head else self._attend)(q, *rows, mask)
        kept = cache is not None or span.keep
        return self.out(mixed), KVCache(*rows, start + lengths) if kept else None

    def _queries(self, cache: KVCache | None) -> dict[str, Any]:
        """How queries leave the rotation: for the splash kernel as it takes them."""
        if cache is not None or self.attention not in splash.KERNELS:
            return {}
        return {"scale": self.head_dim**-0.5, "result": splash.operand_type(self.compute)}

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, T, D] -> queries [B, T, H, P], keys and values [B, T, K, P]."""
        if self.fused:
            heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
            q, k, v = jnp.split(self.qkv(x), (heads, heads + kv), axis=-1)
        else:
            q, k, v = joined((self.query, self.key, self.value), x, join=self.join_qkv)
        split = lambda a: a.reshape(*a.shape[:2], -1, self.head_dim)
        return split(q), split(k), split(v)

    def _attend_by_kernel(self, q: jax.Array, k: jax.Array, v: jax.Array, span: Span) -> jax.Array:
        """q [B, T, H, P], k and v [B, T, K, P] -> [B, T, H * P]."""
        if self.attention == cudnn.KERNEL:
            by_gpu = functools.partial(cudnn.attend, compute=self.compute)
            y = by_gpu(q, k, v, lengths=span.lengths, segment_ids=span.segment_ids)
        else:
            ends = jnp.arange(1, q.shape[1] + 1, dtype=jnp.int32)
            if span.lengths is not None:
                ends = jnp.minimum(ends, span.lengths[:, None])
            interpret = self.attention == "splash_interpret"
            by_tpu = functools.partial(splash.attend, scaled=True, interpret=interpret)
            y = by_tpu(q, k, v, ends, span.segment_ids, compute=self.compute)
        return y.reshape(*y.shape[:2], -1)

    def _attend_by_head(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """As `_attend`."""
        batch, num, _, width = q.shape
        share = lambda a: jnp.repeat(a, self.num_heads // self.num_kv_heads, axis=0)
        q = _rows_first(q)
        y = attend.attend_by_head(q, share(k.swapaxes(1, 2)), share(v), mask, compute=self.compute)
        return y.reshape(batch, -1, num, width).swapaxes(1, 2).reshape(batch, num, -1)

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        """q [B, T, H, P], k [B*K, P, L], v [B*K, L, P], mask [B, T, L] -> [B, T, H * P]."""
        batch, num, _, width = q.shape
        grouped = (batch, self.num_kv_heads, num, self.num_heads // self.num_kv_heads, -1)
        q = q.reshape(batch, num, self.num_kv_heads, -1, width).swapaxes(1, 2) * width**-0.5
        q = q.reshape(k.shape[0], -1, width)  # [B * K, T * G, P]
        scores = product.einsum("nrp,npl->nrl", q, k, compute=self.compute).reshape(grouped)
        scores = jnp.where(mask[:, None, :, None], scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).reshape(*q.shape[:2], -1)
        y = product.einsum("nrl,nlp->nrp", weights, v, compute=self.compute).reshape(grouped)
        return y.swapaxes(1, 2).reshape(batch, num, -1)


def _rows_first(x: jax.Array) -> jax.Array:
    """[B, T, K, P] -> [B * K, T, P]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def write(cache: jax.Array, new: jax.Array, position: jax.Array, axis: int) -> jax.Array:
    """Puts `new` into `cache` along `axis`, from each row's position on.

    What does not fit is dropped. One position of one row goes in by an update in place; the rest
    by a select over the whole cache, which no platform turns into a slow loop or a transposition
    as it does with a scatter.

    Args:
      cache: [B * K, ...].
      new: [B * K, ...], as `cache` but for `axis`.
      position: [B] int32.
      axis: 1 or 2.
    """
    num, size = new.shape[axis], cache.shape[axis]
    if position.shape[0] == num == 1:
        old = jax.lax.dynamic_slice_in_dim(cache, position[0], 1, axis)
        new = jnp.where(position[0] < size, new, old)
        return jax.lax.dynamic_update_slice_in_dim(cache, new, position[0], axis)
    starts = jnp.repeat(position, cache.shape[0] // position.shape[0])[:, None]
    source = jnp.expand_dims(jnp.arange(size, dtype=jnp.int32) - starts, 3 - axis)
    fits = (source >= 0) & (source < num)
    if num > 1:
        new = jnp.take_along_axis(new, jnp.clip(source, 0, num - 1), axis=axis)
    return jnp.where(fits, new, cache)
