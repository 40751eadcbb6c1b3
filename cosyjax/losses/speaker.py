"""Training the speaker encoder: tell speakers apart, with a margin between them.

Additive angular margin, "ArcFace" (Deng et al. 2019, arXiv:1801.07698 Eq. 3). The official speaker
encoder comes trained; its training is not part of CosyVoice 2.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.ops import product

NUM_BINS = 200  # of the cosine of two embeddings, from -1 to 1


def margin_loss(
    embedding: jax.Array,
    prototypes: jax.Array,
    speakers: jax.Array,
    valid: jax.Array,
    *,
    margin: float = 0.2,
    scale: float = 32.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross entropy of scaled cosines, where the true speaker's angle is `margin` larger.

    Args:
      embedding: [B, D], of any length.
      prototypes: [D, V], a direction per speaker.
      speakers: [B] int32 in [0, V). Another number makes the loss NaN.
      valid: [B] True = counts.
      margin: radians.
      scale: of the cosines, an inverse temperature.

    Returns:
      loss: scalar float32, 0 where nothing is valid.
      metrics: "num_targets", and "accuracy" without the margin.
    """
    if not 0.0 <= margin < math.pi / 2 or scale <= 0:
        raise InputError(f"margin={margin} must lie in [0, pi / 2), and scale={scale} above 0")
    embedding = jnp.where(valid[:, None], embedding, 0.0)
    cosine = product.dense(unit(embedding), unit(prototypes.T).T)
    true = jax.nn.one_hot(speakers, prototypes.shape[1], dtype=bool)
    # The gradient of the sine is infinite where the angle is zero.
    inside = jnp.clip(cosine, -1.0 + 1e-6, 1.0 - 1e-6)
    widened = inside * math.cos(margin) - jnp.sqrt(1.0 - jnp.square(inside)) * math.sin(margin)
    # Beyond pi the cosine would rise again; a straight line goes on falling.
    widened = jnp.where(inside > -math.cos(margin), widened, inside - margin * math.sin(margin))
    log_probs = jax.nn.log_softmax(scale * jnp.where(true, widened, cosine))
    picked = jnp.sum(jnp.where(true, log_probs, 0.0), axis=-1)
    picked = jnp.where(jnp.any(true, axis=-1), picked, jnp.nan)
    count = jnp.maximum(jnp.sum(valid), 1)
    hits = jnp.sum(valid & (jnp.argmax(cosine, axis=-1) == speakers))
    metrics = {"num_targets": jnp.sum(valid), "accuracy": hits / count}
    return -jnp.sum(jnp.where(valid, picked, 0.0)) / count, metrics


def unit(x: jax.Array) -> jax.Array:
    """[..., D] divided by its length; zero stays zero and its gradient finite."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def count_scores(
    embedding: jax.Array, speakers: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Histograms of the cosine between each two rows.

    Args:
      embedding: [B, D].
      speakers: [B] int32.
      valid: [B] True = counts.

    Returns:
      int32 [NUM_BINS] for pairs of one speaker and for pairs of two; they may be added up over
      batches before `equal_error_rate`.
    """
    embedding = unit(jnp.where(valid[:, None], embedding, 0.0))
    cosine = product.dense(embedding, embedding.T)
    place = jnp.clip((cosine + 1.0) * (NUM_BINS / 2), 0, NUM_BINS - 1).astype(jnp.int32)
    pairs = jnp.triu(valid[:, None] & valid[None], 1)
    same = speakers[:, None] == speakers[None]
    count = lambda which: jnp.bincount(
        jnp.where(which, place, NUM_BINS).reshape(-1), length=NUM_BINS + 1
    )[:NUM_BINS]
    return count(pairs & same), count(pairs & ~same)


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """The rate at which as many pairs of one speaker are refused as pairs of two are accepted.

    Args:
      same: [NUM_BINS] counts of `count_scores`.
      different: [NUM_BINS].

    Returns:
      in [0, 1], to a bin's width; NaN where there is no pair of either kind.
    """
    if not np.sum(same) or not np.sum(different):
        return math.nan
    refused = np.concatenate([[0], np.cumsum(same)]) / np.sum(same)
    accepted = 1.0 - np.concatenate([[0], np.cumsum(different)]) / np.sum(different)
    at = int(np.argmin(np.abs(refused - accepted)))
    return float(refused[at] + accepted[at]) / 2.0
