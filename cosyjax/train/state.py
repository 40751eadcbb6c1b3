"""What a run carries from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.errors import InputError, nearest
from cosyjax.train.config import TrainConfig
from cosyjax.train.optim import Optimizer, make_optimizer
from cosyjax.train.task import Params, Task


class TrainState(struct.PyTreeNode):
    """Step, parameters, optimiser states and moving averages. No key: it follows from the step."""

    step: jax.Array  # [] int32, updates done
    params: Params  # {group: tree} float32
    opt_state: dict[str, Any]  # {group: optax state} of the groups that train
    ema: Params  # {group: tree} of the groups that have an average

    @property
    def smooth(self) -> Params:
        """The parameters to evaluate and to keep: averages where there are any."""
        return {**self.params, **self.ema}


def make_optimizers(task: Task, config: TrainConfig) -> dict[str, Optimizer]:
    """{group: optimiser} of the groups that have a turn.

    Raises:
      InputError: the config names a group that never trains.
    """
    groups = list(dict.fromkeys(turn.group for turn in task.turns()))
    for name in (*config.group_optimizers, *config.ema_groups):
        if name not in groups:
            raise InputError(f"no group {name!r} trains in this task; {nearest(name, groups)}")
    return {g: make_optimizer(config.optimizer_of(g), config.num_steps) for g in groups}


def make_init(
    task: Task, config: TrainConfig, optimizers: Mapping[str, Optimizer]
) -> tuple[Any, Any]:
    """Returns (key -> TrainState, boxed parameter shapes as `{group: tree}`)."""
    boxed = jax.eval_shape(task.init, jax.random.key(0))
    for group in optimizers:
        if group not in boxed:
            raise InputError(f"a turn trains group {group!r}; {nearest(group, boxed)}")
    averaged = (config.ema_groups or tuple(optimizers)) if config.ema_decay else ()

    def init(key: jax.Array) -> TrainState:
        params = nn.meta.unbox(task.init(key))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state={g: opt.transform.init(params[g]) for g, opt in optimizers.items()},
            ema={g: jax.tree.map(jnp.copy, params[g]) for g in averaged},
        )

    return init, boxed
