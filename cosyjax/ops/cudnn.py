"""Causal attention on NVIDIA GPUs without scores in memory, by cuDNN.

What a machine without a GPU can tell is tested: that the call lowers for CUDA, and that the same
call computed by XLA is attention as elsewhere. The kernel itself was not run.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.ops import heads, product

KERNEL = "cudnn"  # what `attention` in a config may be


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    lengths: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    compute: str = "bfloat16",
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Weighs values by softmax(query . key / sqrt(P)); a query sees keys up to its own place.

    Args:
      query: [B, T, H, P]; P a multiple of 8 up to 128.
      key: [B, T, K, P]; H / K queries share a head.
      value: [B, T, K, P].
      lengths: int32 [B], keys that may be seen; all by default.
      segment_ids: int32 [B, T]; a query sees keys of its own segment. cuDNN reads them as a bias
        [B, 1, T, T], and its gradient then needs an even T.
      compute: operand type of the products; cuDNN takes "bfloat16" alone.
      implementation: "xla" is for tests.

    Returns:
      [B, T, H, P] float32; beyond `lengths` without meaning.

    Raises:
      InputError: no GPU, no cuDNN, or what it does not take.
    """
    if implementation == KERNEL:
        _check(compute)
    key, value = (heads.share(x, query.shape[2]) for x in (key, value))
    dtype = jnp.bfloat16 if compute == "bfloat16" else jnp.float32
    rows = heads.ROWS[:2]
    axes = (
        (heads.ROWS,) * 3,
        None if lengths is None else rows[:1],
        None if segment_ids is None else rows,
    )
    local = functools.partial(_attend, implementation)
    given = tuple(x.astype(dtype) for x in (query, key, value))
    y = sharding.shard_map(local, axes, heads.ROWS)(given, lengths, segment_ids)
    return y.astype(jnp.float32)


def _check(compute: str) -> None:
    if product.on_cpu():
        raise InputError(
            "cudnn attention needs an NVIDIA GPU and this program is for a CPU; use "
            "attention='whole'"
        )
    if compute != "bfloat16":
        raise InputError(f"cudnn attention needs compute='bfloat16', not {compute!r}")


def _attend(
    implementation: Literal["cudnn", "xla"],
    given: tuple[jax.Array, jax.Array, jax.Array],
    lengths: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """As `attend`, of one device's rows and heads."""
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    try:
        return jax.nn.dot_product_attention(
            *given,
            mask=mask,
            is_causal=True,
            key_value_seq_lengths=lengths,
            implementation=implementation,
        )
    except (RuntimeError, NotImplementedError) as error:  # no cuDNN; sizes that it does not take
        raise InputError(f"cudnn attention: {error} Use attention='whole'") from error
