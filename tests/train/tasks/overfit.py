"""Trains a task on one batch by plain Adam, without the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from cosyjax.train.task import Params, Task


def overfit(
    task: Task,
    batch: Mapping[str, jax.Array],
    num_steps: int,
    learning_rate: float = 3e-3,
    params: Params | None = None,
) -> tuple[Params, list[dict[str, float]]]:
    """Takes every turn `num_steps` times; returns the parameters and {group/metric} per step."""
    if params is None:
        params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(learning_rate))
    init = jax.jit(optimizer.init)
    states = {turn.group: init(params[turn.group]) for turn in task.turns()}

    @jax.jit
    def step(params: Params, states: Any, key: jax.Array) -> Any:
        found: dict[str, jax.Array] = {}
        for turn in task.turns():

            def loss_fn(own: Any, turn: Any = turn, params: Params = params) -> Any:
                return turn.loss({**params, turn.group: own}, batch, key)

            own = params[turn.group]
            (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(own)
            updates, state = optimizer.update(grads, states[turn.group], own)
            own = optax.apply_updates(own, updates)
            own = own if turn.finish is None else turn.finish(own, metrics)
            params = {**params, turn.group: own}
            states = {**states, turn.group: state}
            scalars = {name: x for name, x in metrics.items() if x.ndim == 0}
            found |= {f"{turn.group}/{k}": x for k, x in {**scalars, "loss": loss}.items()}
        return params, states, found

    history = []
    for index in range(num_steps):
        params, states, found = step(params, states, jax.random.fold_in(jax.random.key(1), index))
        history.append({name: float(x) for name, x in found.items()})
    return params, history
