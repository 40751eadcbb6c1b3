"""Attention on TPU without scores in memory, by JAX's splash kernel.

All masks of this project say "query i sees the keys before ends[i]": causal, chunks of any length,
whole rows. The ends are data, so rows with different chunks share one compiled kernel; blocks of
keys that no query of a batch may see are neither loaded nor multiplied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.ops import heads, product
from cosyjax.ops.heads import ATTENDED

# What `attention` in a config may be besides "whole": the kernel on TPU, and its steps run by XLA
# on any device, slowly, for tests.
KERNELS = ("splash", "splash_interpret")
LANES = 128  # a block of queries or keys is a multiple of it
BLOCK = 512  # queries and keys of a block, at most; what MaxText takes, not measured here


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    ends: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    compute: str = "float32",
    scaled: bool = False,
    interpret: bool = False,
    block: int = BLOCK,
) -> jax.Array:
    """Weighs values by softmax(query . key / sqrt(P)).

    Args:
      query: [B, T, H, P].
      key: [B, T, K, P]; H / K queries share a head.
      value: [B, T, K, P]; what is masked must still be finite.
      ends: int32 [B, T] or, for all rows, [T]: a query sees keys before its end. Each sees the
        first key, whatever its end.
      segment_ids: int32 [B, T]; a query sees keys of its own segment.
      compute: operand type of the products.
      scaled: queries are divided by sqrt(P) already.
      interpret: run the kernel's steps by XLA, on any device and slowly.
      block: queries and keys of a block, at most.

    Returns:
      [B, T, H, P] float32. A query that no key of its segment may answer gets something finite.

    Raises:
      InputError: the kernel is to be compiled for a CPU.
    """
    if product.on_cpu() and not interpret:
        raise InputError(
            "splash attention is a TPU kernel and this program is for a CPU; use "
            "attention='whole', or 'splash_interpret' to test it slowly"
        )
    key, value = (heads.share(x, query.shape[2]) for x in (key, value))
    if not scaled:
        query = query * jnp.float32(query.shape[-1] ** -0.5)
    given = [x.astype(operand_type(compute)) for x in (query, key, value)]
    local = functools.partial(_attend, interpret=interpret, block=block)
    ids = ("batch", None)
    axes = (heads.ROWS,) * 3 + (
        ids if ends.ndim == 2 else (None,),
        ids if segment_ids is not None else None,
    )
    y = sharding.shard_map(local, axes, heads.ROWS)(*given, ends, segment_ids)
    return y.astype(jnp.float32)


def operand_type(compute: str) -> Any:
    """In which type the kernel takes queries, keys and values."""
    return jnp.bfloat16 if compute == "bfloat16" else jnp.float32


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    ends: jax.Array,
    segment_ids: jax.Array | None,
    *,
    interpret: bool,
    block: int,
) -> jax.Array:
    """As `attend`, of one device's rows and heads, `query` scaled."""
    size = query.shape[1]
    block = _block_size(size, block)
    short = -size % block
    pad = lambda x, value=0: _pad(x, short, value)
    ends = pad(jnp.clip(ends, 1, size), 1)
    tables = _make_tables(ends, block)
    ids = None if segment_ids is None else pad(segment_ids, -1)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, ends: jax.Array, ids: Any) -> jax.Array:
        first = lambda x: x.swapaxes(0, 1)  # heads
        y: jax.Array = _kernel(tables, ends, interpret)(first(q), first(k), first(v), ids)
        return first(y)

    rows = (0, 0, 0, 0 if ends.ndim == 2 else None, None if ids is None else 0)
    y = jax.vmap(one, rows)(pad(query), pad(key), pad(value), ends, ids)
    return y[:, :size]


def _pad(x: jax.Array, count: int, value: int) -> jax.Array:
    axis = min(x.ndim - 1, 1)
    return jnp.pad(
        x, [(0, count if i == axis else 0) for i in range(x.ndim)], constant_values=value
    )


def _block_size(size: int, most: int) -> int:
    """Blocks of equal size, as few as `most` allows and with little padding."""
    num_blocks = -(-size // most)
    return -(-size // (num_blocks * LANES)) * LANES


def _may_look(end: jax.Array, key: jax.Array) -> jax.Array:
    """The mask within a block, as the kernel asks for it."""
    return key < end


class _Tables(NamedTuple):
    """Which blocks of keys the blocks of queries need: int32 [1, queries, keys] each.

    A block that is not needed stands in its table as the next one that is: the kernel then has
    it loaded when it comes there.
    """

    block: int
    needed: jax.Array  # 1 or 0
    keys: jax.Array  # of the forward pass
    queries: jax.Array  # of the backward pass, which goes through the queries of each block of keys


def _make_tables(ends: jax.Array, block: int) -> _Tables:
    """ends: [B, T] or [T], T a multiple of `block`."""
    num = ends.shape[-1] // block
    last = jnp.max(ends.reshape(-1, num, block), axis=(0, 2))
    needed = jnp.arange(num) * block < last[:, None]
    # Every block of queries needs the first block of keys.
    keys = jnp.where(needed, jnp.arange(num), 0)
    queries = jnp.where(needed, jnp.arange(num)[:, None], jnp.argmax(needed, axis=0))
    tables = (x.astype(jnp.int32)[None] for x in (needed, keys, queries))
    return _Tables(block, *tables)


def _kernel(tables: _Tables, ends: jax.Array, interpret: bool) -> Callable[..., jax.Array]:
    """The kernel for a row whose queries end at `ends` [T]; it takes heads first, and ids."""
    # An experimental part of JAX: who does not ask for it does not need it.
    from jax.experimental.pallas.ops.tpu import splash_attention
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as infos

    def info(following: jax.Array) -> Any:
        given: Any = ends
        return infos.MaskInfo(following, None, tables.needed, None, q_sequence=given)

    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv")
    sizes: dict[str, Any] = dict.fromkeys(names, tables.block)
    kernel: Any = kernels.SplashAttentionKernel(
        info(tables.keys),
        None,
        info(tables.queries),
        block_sizes=splash_attention.BlockSizes(**sizes, use_fused_bwd_kernel=True),
        is_mqa=False,
        save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=ATTENDED,
        mask_function=_may_look,
        interpret=interpret,
    )
    wrap = lambda ids: None if ids is None else splash_attention.SegmentIds(ids, ids)
    return lambda query, key, value, ids: kernel(query, key, value, wrap(ids))
