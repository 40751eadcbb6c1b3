"""Direct preference optimization (arXiv 2305.18290; CosyVoice 2, arXiv 2412.10117, section 2.7)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.ops.interleave import IGNORED


class DPOLoss(NamedTuple):
    """Loss and implicit rewards."""

    loss: jax.Array  # [] mean over pairs
    chosen_reward: jax.Array  # [B] beta * (policy - reference) of the preferred sequence
    rejected_reward: jax.Array  # [B] the same of the other one


def sequence_logps(
    logits: jax.Array, targets: jax.Array, *, over_ignored: bool = False
) -> jax.Array:
    """Returns the mean log-probability of each sequence's targets, [B].

    Differs: the official code of 2026 has its mask inverted and averages the log-probability of
    class 0 over the positions WITHOUT a target, padding included. `over_ignored` reproduces that
    for comparison; training uses the valid tokens.

    Args:
      logits: [B, L, V].
      targets: [B, L] int32, `interleave.IGNORED` where there is none.
      over_ignored: the official mask.
    """
    valid = targets != IGNORED
    logps = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    logps = jnp.take_along_axis(logps, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    mask = ~valid if over_ignored else valid
    return jnp.sum(jnp.where(mask, logps, 0.0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)


def dpo(
    policy: tuple[jax.Array, jax.Array], reference: tuple[jax.Array, jax.Array], beta: float = 0.01
) -> DPOLoss:
    """Compares policy and reference on pairs.

    Args:
      policy: log-probabilities (chosen [B], rejected [B]) under the trained model.
      reference: the same under the frozen one.
      beta: how strongly the policy is held to the reference.
    """
    chosen, rejected = (p - r for p, r in zip(policy, reference, strict=True))
    loss = -jnp.mean(jax.nn.log_sigmoid(beta * (chosen - rejected)))
    return DPOLoss(loss, beta * chosen, beta * rejected)
