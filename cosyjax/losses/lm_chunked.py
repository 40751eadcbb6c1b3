"""Cross entropy of the language model without the logits of all positions at once.

The logits of a row of 320 positions take 32 times the memory of what they are made of. Here they
are made for a few positions at a time, those without a target not at all, and the gradient in the
same pass. On a mesh each device goes through the positions of its own rows, against its own part of
the vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.losses.lm import TokenLoss, smoothed_entropy
from cosyjax.ops import product
from cosyjax.ops.interleave import IGNORED

ROWS = ("batch", None)  # of targets [B, L]


class Head(NamedTuple):
    """The linear layer behind the language model."""

    kernel: Any  # [D, V]
    bias: Any  # [V]


class _Settings(NamedTuple):
    smoothing: float
    chunk: int
    compute: str


class Sums(NamedTuple):
    """What the positions seen so far add up to, for a loss whose own gradient is 1."""

    total: Any  # [] nats
    correct: Any  # []
    hidden: Any = None  # [B, L, D] gradient; None where it is not asked for
    head: Any = None  # gradient


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
      chunk: positions whose logits a device holds at a time.
      compute: operand type of products.
    """
    total, correct = _sums(_Settings(smoothing, chunk, compute), hidden, head, targets)
    return TokenLoss(total, jnp.sum(targets != IGNORED, dtype=jnp.float32), correct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    settings: _Settings, hidden: jax.Array, head: Head, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
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
    """Adds up over all devices; gradients meet here, not in a derivative of the collectives."""
    if settings.compute == "bfloat16":  # before they travel
        hidden, kernel = hidden.astype(jnp.bfloat16), head.kernel.astype(jnp.bfloat16)
        head = head._replace(kernel=kernel)
    # Where rows and classes lie on the same devices, a device must see all classes.
    apart = not set(sharding.mesh_axes("vocab")) & set(sharding.mesh_axes("batch"))
    classes = "vocab" if apart else None
    in_axes = ((*ROWS, None), Head((None, classes), (classes,)), ROWS)
    slope_axes = Head(("embed" if _scattered() else None, classes), (classes,))
    out_axes = Sums((), (), in_axes[0], slope_axes) if with_gradient else Sums((), ())
    local = functools.partial(_run_local, settings, classes, with_gradient)
    return sharding.shard_map(local, in_axes, out_axes)(hidden, head, targets)


def _scattered() -> tuple[str, ...]:
    """Mesh axes of the rows on which the kernel's width lies too: each keeps its part of a sum."""
    width, rows = sharding.mesh_axes("embed"), sharding.mesh_axes("batch")
    return width if set(width) <= set(rows) else ()


def _run_local(
    settings: _Settings,
    classes: str | None,
    with_gradient: bool,
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
) -> Sums:
    """Goes through the chunks of a device's rows that hold targets.

    Args:
      settings: how.
      classes: the logical name of the axis over which the classes are cut; None if they are not.
      with_gradient: by hidden and head.
      hidden: [B, L, D] of this device.
      head: its part of the classes.
      targets: [B, L] of this device, counted in all classes.
    """
    rows, parts = sharding.mesh_axes("batch"), sharding.mesh_axes(classes) if classes else ()
    flat, chunk = targets.reshape(-1), settings.chunk
    order = jnp.argsort(flat == IGNORED, stable=True)  # those with a target first
    order = jnp.pad(order, (0, -order.size % chunk), constant_values=flat.size)
    x = hidden.reshape(flat.size, -1)
    x = jnp.take(x, order, axis=0, mode="fill", fill_value=0.0)
    wanted = jnp.take(flat, order, mode="fill", fill_value=IGNORED)
    # As many steps on every device: those that share a collective must come to it together.
    num_chunks = jax.lax.pmax(-(-jnp.sum(flat != IGNORED) // chunk), rows)
    step = functools.partial(_step, settings, parts, (x, head, wanted))
    zero, zeros = jnp.float32(0.0), lambda leaf: jnp.zeros(leaf.shape, jnp.float32)
    start = Sums(zero, zero, *jax.tree.map(zeros, (x, head))) if with_gradient else Sums(zero, zero)
    sums = jax.lax.fori_loop(0, num_chunks, step, start)
    add = lambda tree: jax.tree.map(lambda leaf: jax.lax.psum(leaf, rows), tree)
    total, correct = add((sums.total, sums.correct))
    if not with_gradient:
        return Sums(total, correct)
    back = jnp.take(sums.hidden, jnp.argsort(order)[: flat.size], axis=0)
    back = jax.lax.psum(back, parts).reshape(hidden.shape)
    scattered = _scattered()
    kernel = jax.lax.psum(sums.head.kernel, tuple(axis for axis in rows if axis not in scattered))
    if scattered:
        kernel = jax.lax.psum_scatter(kernel, scattered, scatter_dimension=0, tiled=True)
    return Sums(total, correct, back, Head(kernel, add(sums.head.bias)))


def _step(
    settings: _Settings,
    parts: tuple[str, ...],
    given: tuple[jax.Array, Head, jax.Array],
    index: jax.Array,
    sums: Sums,
) -> Sums:
    """Adds a chunk of the sorted positions; the gradient by hidden is that of this part."""
    hidden, head, targets = given
    product_of = functools.partial(product.einsum, compute=settings.compute)
    start = index * settings.chunk
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, settings.chunk)
    x, wanted = cut(hidden), cut(targets)
    logits = product_of("nd,dv->nv", x, head.kernel) + head.bias
    total, correct, slope = _score(logits, wanted, settings.smoothing, parts)
    sums = sums._replace(total=sums.total + total, correct=sums.correct + correct)
    if sums.head is None:
        return sums
    by_x = product_of("nv,dv->nd", slope, head.kernel)
    by_kernel = product_of("nd,nv->dv", x, slope)
    return sums._replace(
        hidden=jax.lax.dynamic_update_slice_in_dim(sums.hidden, by_x, start, 0),
        head=Head(sums.head.kernel + by_kernel, sums.head.bias + jnp.sum(slope, axis=0)),
    )


def _score(
    logits: jax.Array, targets: jax.Array, smoothing: float, parts: tuple[str, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss, correct, gradient [n, v] of a chunk, in few passes over the logits.

    Of equal highest logits the target counts as the likeliest.

    Args:
      logits: [n, v], of this device's classes.
      targets: [n], counted in all classes.
      smoothing: in [0, 1).
      parts: mesh axes that hold the other classes.
    """
    num_here = logits.shape[-1]
    add = lambda x: jax.lax.psum(jnp.sum(x, axis=-1, keepdims=True), parts)
    size = num_here * jax.lax.psum(1, parts)
    first = num_here * jax.lax.axis_index(parts) if parts else 0
    valid, others = targets != IGNORED, smoothing / (size - 1)
    highest = jax.lax.pmax(jnp.max(logits, axis=-1, keepdims=True), parts)
    shares = jnp.exp(logits - highest)
    whole = add(shares)
    here = jnp.arange(num_here) + first == jnp.maximum(targets, 0)[:, None]
    at_target = add(jnp.where(here, logits, 0.0))
    log_whole = highest + jnp.log(whole)
    losses = smoothed_entropy(smoothing, size) - (1.0 - smoothing - others) * (
        at_target - log_whole
    )
    if smoothing:
        losses -= others * (add(logits) - size * log_whole)
    slope = shares / whole - jnp.where(here, 1.0 - smoothing, others)
    right = valid & (at_target >= highest)[:, 0]
    total = jnp.sum(jnp.where(valid, losses[:, 0], 0.0))
    count = jnp.sum(right, dtype=jnp.float32)
    return total, count, jnp.where(valid[:, None], slope, 0.0)
