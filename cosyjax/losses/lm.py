"""Cross entropy of the language model over the positions that have a target."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.ops.interleave import IGNORED


class TokenLoss(NamedTuple):
    """Sums over valid positions, so that batches add up before the division."""

    total: jax.Array  # [] float32, sum of losses in nats
    num_targets: jax.Array  # [] float32, positions with a target
    correct: jax.Array  # [] float32, positions whose likeliest id is the target

    @property
    def mean(self) -> jax.Array:
        return self.total / jnp.maximum(self.num_targets, 1.0)

    @property
    def accuracy(self) -> jax.Array:
        return self.correct / jnp.maximum(self.num_targets, 1.0)


def cross_entropy(logits: jax.Array, targets: jax.Array, smoothing: float = 0.0) -> TokenLoss:
    """Kullback-Leibler divergence from the smoothed target to the prediction.

    The target has 1 - smoothing of the mass and every other class smoothing / (V - 1). As in the
    official code the entropy of the smoothed target is subtracted, so that a perfect prediction
    costs nothing; the gradient is that of plain cross entropy with label smoothing.

    Args:
      logits: [B, L, V].
      targets: [B, L] int32, `interleave.IGNORED` where there is none.
      smoothing: in [0, 1).
    """
    logps = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    valid = targets != IGNORED
    at_target = _gather(logps, targets)
    others = smoothing / (logits.shape[-1] - 1)
    losses = smoothed_entropy(smoothing, logits.shape[-1]) - (1.0 - smoothing) * at_target
    if smoothing:
        losses = losses - others * (jnp.sum(logps, axis=-1) - at_target)
    right = jnp.argmax(logits, axis=-1) == targets
    count = lambda mask: jnp.sum(mask, dtype=jnp.float32)
    total = jnp.sum(jnp.where(valid, losses, 0.0))
    return TokenLoss(total, count(valid), count(right & valid))


def _gather(logps: jax.Array, targets: jax.Array) -> jax.Array:
    """Log-probability of each target; of class 0 where there is none."""
    index = jnp.maximum(targets, 0)[..., None]
    return jnp.take_along_axis(logps, index, axis=-1)[..., 0]


def smoothed_entropy(smoothing: float, num_classes: int) -> float:
    """Negative entropy in nats of a smoothed target; 0 without smoothing."""
    if not smoothing:
        return 0.0
    kept = (1.0 - smoothing) * math.log(1.0 - smoothing) if smoothing < 1.0 else 0.0
    return kept + smoothing * math.log(smoothing / (num_classes - 1))
