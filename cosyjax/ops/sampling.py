"""Drawing the next speech token: greedy, temperature, nucleus, repetition-aware (RAS).

All functions take `scores` [B, V], unnormalised log-probabilities (a constant per row does not
matter, -inf forbids an id), and one key per row, and are pure.

Repetition-aware sampling (VALL-E 2, arXiv 2406.05370; used by CosyVoice 2): draw from a nucleus;
where the drawn id is frequent among the last tokens, draw once more from the whole vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Nucleus(NamedTuple):
    """Candidates in falling order; beyond the nucleus ids are -1 and probabilities 0."""

    ids: jax.Array  # [B, top_k] int32
    probs: jax.Array  # [B, top_k] float32, not renormalised


def nucleus(scores: jax.Array, top_p: float, top_k: int) -> Nucleus:
    """Returns the likeliest ids until their mass reaches `top_p` (the crossing one included)."""
    scores = scores.astype(jnp.float32)
    best, ids = jax.lax.top_k(scores, min(top_k, scores.shape[-1]))
    probs = jnp.exp(best - jax.nn.logsumexp(scores, axis=-1, keepdims=True))
    before = jnp.pad(jnp.cumsum(probs, axis=-1), ((0, 0), (1, 0)))[:, :-1]
    inside = before < top_p
    return Nucleus(jnp.where(inside, ids, -1), jnp.where(inside, probs, 0.0))


def draw(scores: jax.Array, keys: jax.Array) -> jax.Array:
    """Draws an index per row in proportion to exp(scores): [B, V], [B] keys -> [B] int32."""
    return jax.vmap(jax.random.categorical)(keys, scores).astype(jnp.int32)


def greedy(scores: jax.Array) -> jax.Array:
    """Returns the likeliest id of each row, [B] int32."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def draw_nucleus(candidates: Nucleus, keys: jax.Array) -> jax.Array:
    """Draws one candidate per row in proportion to its probability, [B] int32."""
    index = draw(jnp.log(candidates.probs), keys)
    return jnp.take_along_axis(candidates.ids, index[:, None], axis=1)[:, 0]


def is_repeated(ids: jax.Array, recent: jax.Array, threshold: float) -> jax.Array:
    """Says where `ids` [B] occurs at least `threshold` times in `recent` [B, W] (-1 = empty)."""
    return jnp.sum(recent == ids[:, None], axis=1) >= threshold


def without(scores: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns scores [B, V] with `ids` [B] forbidden."""
    banned = jnp.arange(scores.shape[1]) == ids[:, None]
    return jnp.where(banned, -jnp.inf, scores)


def repetition_aware(
    scores: jax.Array,
    recent: jax.Array,
    keys: jax.Array,
    *,
    top_p: float = 0.8,
    top_k: int = 25,
    tau: float = 0.1,
    remove_repeated: bool = True,
) -> jax.Array:
    """Draws one id per row.

    Differs: the paper's second draw is from the whole vocabulary as it is; the official code of
    2026 forbids the repeated id in it (`remove_repeated`, the default).

    Args:
      scores: [B, V].
      recent: [B, W] the last W ids, -1 where there is none.
      keys: [B] one key per row and step.
      top_p: mass of the first draw.
      top_k: most candidates of the first draw.
      tau: share of W from which an id counts as repeated.
      remove_repeated: forbid the repeated id in the second draw.

    Returns:
      [B] int32.
    """
    first_keys, second_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    first = draw_nucleus(nucleus(scores, top_p, top_k), first_keys)
    repeated = is_repeated(first, recent, recent.shape[1] * tau)

    def redraw() -> jax.Array:
        allowed = without(scores, first) if remove_repeated else scores
        return jnp.where(repeated, draw(allowed, second_keys), first)

    # A draw over the whole vocabulary costs one random number an id: only where it is needed.
    return jax.lax.cond(jnp.any(repeated), redraw, lambda: first)
