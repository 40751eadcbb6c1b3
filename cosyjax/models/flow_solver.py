"""Noise carried to mel along the guided velocity, for whole utterances and for calls alike.

CosyVoice 2 (arXiv 2412.10117) section 2.4.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax.models.estimator import Conditions, Estimator, EstimatorState
from cosyjax.ops import ode


def carry(
    estimator: Estimator,
    variables: Any,
    noise: jax.Array,
    states: EstimatorState | None,
    *,
    seen: tuple[Conditions, jax.Array],
    steps: ode.TimeSteps,
    scale: jax.Array | float,
) -> tuple[jax.Array, Any]:
    """Carries noise along the guided velocity.

    Args:
      estimator: an unbound module.
      variables: {"params": ...} of the estimator.
      noise: [B, C, M].
      states: what each solver step remembers, or None for whole utterances.
      seen: conditions of B rows, and the mask bool [B or 1, C, L + C].
      steps: times and step sizes.
      scale: guidance; the unconditional rows run beside the conditional ones, as rows B .. 2B.

    Returns:
      [B, C, M], and the states.
    """
    given, mask = seen
    twice = lambda a, b: jnp.concatenate([a, b])
    conditions = Conditions(*map(twice, given, given.unconditional()))
    mask = twice(mask, mask) if mask.shape[0] > 1 else mask
    shifts = estimator.apply(variables, jnp.asarray(steps.t), method="shifts")

    def velocity(x: jax.Array, t: jax.Array, mine: Any) -> tuple[jax.Array, Any]:
        del t  # its share is in the shifts
        shift, state = mine
        v, state = estimator.apply(
            variables,
            twice(x, x),
            state,
            shifts=tuple(row[None] for row in shift),
            conditions=conditions,
            mask=mask,
            method="step",
        )
        cond, uncond = jnp.split(v, 2)
        return ode.guide(cond, uncond, scale), state

    return ode.euler(velocity, noise, steps, (shifts, states))


def sanitize_inputs(
    x: jax.Array, given: Conditions, valid: jax.Array
) -> tuple[jax.Array, Conditions]:
    """Zeros where `valid` [B, F] is False, so that the padding may hold anything."""
    clean = lambda y: jnp.where(valid[..., None], y, 0.0)
    return clean(x), Conditions(clean(given.mu), given.speaker, clean(given.prompt_mel))
