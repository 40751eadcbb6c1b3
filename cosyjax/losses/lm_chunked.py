"""Cross entropy of the language model without the logits of all positions at once.

The logits of a row of 320 positions take 32 times the memory of what they are made of. Here they
are made for a few positions at a time, those without a target not at all, and the gradient in the
same pass. For one device: the positions of all rows are sorted together.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.losses.lm import TokenLoss, smoothed_entropy
from cosyjax.ops import product
from cosyjax.ops.interleave import IGNORED


class Head(NamedTuple):
    """The linear layer behind the language model."""

    kernel: jax.Array  # [D, V]
    bias: jax.Array  # [V]


class _Settings(NamedTuple):
    smoothing: float
    chunk: int
    compute: str


class Sums(NamedTuple):
    """What the positions seen so far add up to, for a loss whose own gradient is 1."""

    total: jax.Array  # [] nats
    correct: jax.Array  # []
    hidden: jax.Array  # [N, D] gradient
    head: Head  # gradient


def chunked_cross_entropy(
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    *,
    smoothing: float = 0.0,
    chunk: int = 256,
    compute: str = "float32",
) -> TokenLoss:
    """`cross_entropy` of the head's logits.

    Args:
      hidden: [B, L, D] after the final norm.
      head: makes logits of it.
      targets: [B, L] int32, IGNORED where there is none.
      smoothing: in [0, 1).
      chunk: positions whose logits are held at a time.
      compute: operand type of products.
    """
    flat = targets.reshape(-1)
    order = jnp.argsort(flat == IGNORED, stable=True)  # those with a target first
    order = jnp.pad(order, (0, -order.size % chunk), constant_values=flat.size)
    rows = hidden.reshape(flat.size, -1)
    rows = jnp.take(rows, order, axis=0, mode="fill", fill_value=0.0)
    flat = jnp.take(flat, order, mode="fill", fill_value=IGNORED)
    total, correct = _sums(_Settings(smoothing, chunk, compute), rows, head, flat)
    return TokenLoss(total, jnp.sum(flat != IGNORED, dtype=jnp.float32), correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    settings: _Settings, hidden: jax.Array, head: Head, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """hidden [N, D], targets [N], those that count in front -> total, correct."""
    found = _run(settings, hidden, head, targets, with_gradient=False)
    return found.total, found.correct


def _forward(
    settings: _Settings, *given: Any
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, Head]]:
    found = _run(settings, *given, with_gradient=True)
    return (found.total, found.correct), (found.hidden, found.head)


def _backward(
    settings: _Settings, kept: tuple[jax.Array, Head], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, Head, None]:
    hidden, head = jax.tree.map(lambda x: cotangents[0] * x, kept)
    return hidden, head, None


_sums.defvjp(_forward, _backward)


def _run(
    settings: _Settings, hidden: jax.Array, head: Head, targets: jax.Array, *, with_gradient: bool
) -> Sums:
    """Goes through the chunks that hold targets."""
    chunk = settings.chunk
    product_of = functools.partial(product.einsum, compute=settings.compute)

    def step(index: jax.Array, sums: Sums) -> Sums:
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, index * chunk, chunk)
        x, wanted = cut(hidden), cut(targets)
        logits = product_of("nd,dv->nv", x, head.kernel) + head.bias
        total, correct, slope = _score(logits, wanted, settings.smoothing)
        sums = sums._replace(total=sums.total + total, correct=sums.correct + correct)
        if not with_gradient:
            return sums
        by_x = product_of("nv,dv->nd", slope, head.kernel)
        by_kernel = product_of("nd,nv->dv", x, slope)
        return sums._replace(
            hidden=jax.lax.dynamic_update_slice_in_dim(sums.hidden, by_x, index * chunk, 0),
            head=Head(sums.head.kernel + by_kernel, sums.head.bias + jnp.sum(slope, axis=0)),
        )

    num_chunks = -(-jnp.sum(targets != IGNORED) // chunk)
    zero = jnp.float32(0.0)
    empty = jax.tree.map(jnp.zeros_like, (hidden, head) if with_gradient else (zero, head))
    return jax.lax.fori_loop(0, num_chunks, step, Sums(zero, zero, *empty))


def _score(
    logits: jax.Array, targets: jax.Array, smoothing: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """logits [n, V], targets [n] -> loss, correct, gradient [n, V], in few passes over the logits.

    Of equal highest logits the target counts as the likeliest.
    """
    valid, size = targets != IGNORED, logits.shape[-1]
    others = smoothing / (size - 1)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    parts = jnp.exp(logits - highest)
    whole = jnp.sum(parts, axis=-1, keepdims=True)
    index = jnp.maximum(targets, 0)[:, None]
    at_target = jnp.take_along_axis(logits, index, axis=-1)
    log_whole = highest + jnp.log(whole)
    losses = smoothed_entropy(smoothing, size) - (1.0 - smoothing - others) * (
        at_target - log_whole
    )
    if smoothing:
        losses -= others * (jnp.sum(logits, axis=-1, keepdims=True) - size * log_whole)
    here = jnp.arange(size) == index
    slope = parts / whole - jnp.where(here, 1.0 - smoothing, others)
    right = valid & (at_target >= highest)[:, 0]
    total = jnp.sum(jnp.where(valid, losses[:, 0], 0.0))
    count = jnp.sum(right, dtype=jnp.float32)
    return total, count, jnp.where(valid[:, None], slope, 0.0)
