"""Optimisers and schedules: AdamW per group, with the learning rate a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cosyjax.train.config import OptimizerConfig

Schedule = Callable[[jax.Array], jax.Array]
UNDECAYED = ("bias", "scale", "alpha", "beta", "gamma")  # names of leaves without weight decay


class Optimizer(NamedTuple):
    """`transform` gives the direction of a step; the schedule its length."""

    transform: optax.GradientTransformation
    schedule: Schedule


def make_optimizer(config: OptimizerConfig, num_steps: int) -> Optimizer:
    """Clipping, Adam, weight decay; the schedule is read with the step, not counted inside."""
    chain = [
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
    ]
    if config.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return Optimizer(optax.chain(*chain), make_schedule(config, num_steps))


def make_schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
    """Returns step -> learning rate; a linear warm-up, then one of `config.SCHEDULES`.

    Args:
      config: the optimiser's config.
      num_steps: length of the run; cosine and wsd end there.
    """

    def schedule(step: jax.Array) -> jax.Array:
        now = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum((now + 1.0) / max(config.warmup_steps, 1), 1.0)
        if config.schedule == "constant":
            return config.peak_lr * warm
        start = config.warmup_steps
        if config.schedule == "wsd":
            start = max(start, num_steps - config.decay_steps)
        part = jnp.clip((now - start) / max(num_steps - start, 1), 0.0, 1.0)
        fall = 1.0 - part if config.schedule == "wsd" else 0.5 * (1.0 + jnp.cos(jnp.pi * part))
        return warm * (config.final_lr + (config.peak_lr - config.final_lr) * fall)

    return schedule


def decay_mask(params: Any) -> Any:
    """True for the leaves that decay: matrices and kernels, not norms and biases."""

    def decays(path: Any, leaf: Any) -> bool:
        name = str(getattr(path[-1], "key", "")) if path else ""
        return leaf.ndim > 1 and name not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decays, params)
