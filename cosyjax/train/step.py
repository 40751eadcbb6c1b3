"""One step for every stage: each turn updates its group with the parameters of the turn before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cosyjax import sharding
from cosyjax.train.optim import Optimizer
from cosyjax.train.state import TrainState
from cosyjax.train.task import Batch, Metrics, Params, Task, Turn

COUNTS = ("weight", "num_targets", "num_frames")  # metrics: what a loss averages over
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    task: Task,
    optimizers: Mapping[str, Optimizer],
    *,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
) -> Step:
    """Returns (state, batch) -> (state, metrics); the caller jits it and donates the state.

    The metrics hold "loss", and "grad_norm" (before clipping), "update_norm" and "lr" of the
    group. Arrays among the task's are left out. With several turns all are named "group/...", and
    "loss" is the sum.

    Args:
      task: whose turns are taken.
      optimizers: of the groups that train.
      seed: the key of step n is fold_in(key(seed), n), so a resumed run needs no key.
      accumulate: microbatches per update; the rows of a batch must divide by it. Their gradients
        are averaged by the metric of COUNTS that a loss gives, evenly where it gives none.
      ema_decay: of the groups in `state.ema`; shorter in the first steps, (1 + n) / (10 + n), so
        that the random start is forgotten.
      mesh: keeps microbatches on the devices that hold their rows.
    """
    turns = task.turns()

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params, opt_state = dict(state.params), dict(state.opt_state)
        found: list[Metrics] = []
        for index, turn in enumerate(turns):
            turn_key = key if len(turns) == 1 else jax.random.fold_in(key, index)
            grads, metrics = _gradient(turn, params, batch, turn_key, accumulate, mesh)
            own, optimizer = params[turn.group], optimizers[turn.group]
            direction, opt_state[turn.group] = optimizer.transform.update(
                grads, opt_state[turn.group], own
            )
            rate = optimizer.schedule(state.step)
            updates = jax.tree.map(lambda d: -rate * d, direction)
            params[turn.group] = optax.apply_updates(own, updates)
            if turn.finish is not None:
                params[turn.group] = turn.finish(params[turn.group], metrics)
            norms = {"grad_norm": optax.tree.norm(grads), "lr": rate}
            found.append(metrics | norms | {"update_norm": optax.tree.norm(updates)})
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = {g: _average(tree, params[g], decay) for g, tree in state.ema.items()}
        state = TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return state, _merge([turn.group for turn in turns], found)

    return step


def _gradient(
    turn: Turn, params: Params, batch: Batch, key: jax.Array, accumulate: int, mesh: Mesh | None
) -> tuple[Any, Metrics]:
    """The gradient of a turn's loss by its own group, and the metrics."""

    def loss_fn(own: Any, rows: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        loss, metrics = turn.loss({**params, turn.group: own}, rows, key)
        return loss, {**metrics, "loss": loss}

    grad_fn = jax.grad(loss_fn, has_aux=True)
    own = params[turn.group]
    if accumulate == 1:
        return grad_fn(own, batch, key)

    def add(total: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        index, rows = part
        grads, metrics = grad_fn(own, rows, jax.random.fold_in(key, index))
        count = count_of(metrics)
        weight = jnp.float32(1.0) if count is None else jnp.asarray(count, jnp.float32)
        scaled = jax.tree.map(lambda x: weight * x, (grads, _floats(metrics)))
        return jax.tree.map(jnp.add, total, (*scaled, weight)), None

    parts = (jnp.arange(accumulate), _split(batch, accumulate, mesh))
    shapes = jax.eval_shape(lambda: grad_fn(own, jax.tree.map(lambda x: x[0], parts[1]), key))
    grad_zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0])
    metric_zeros = {name: jnp.zeros(s.shape, jnp.float32) for name, s in shapes[1].items()}
    zeros = (grad_zeros, metric_zeros, jnp.float32(0.0))
    (grads, metrics, weight), _ = jax.lax.scan(add, zeros, parts)
    grads, metrics = jax.tree.map(lambda x: x / jnp.maximum(weight, 1e-9), (grads, metrics))
    return grads, {**metrics, **{name: weight for name in COUNTS if name in metrics}}


def count_of(metrics: Mapping[str, Any]) -> Any:
    """What the loss of these metrics averages over; None where they do not say."""
    return next((metrics[name] for name in COUNTS if name in metrics), None)


def _floats(metrics: Metrics) -> Metrics:
    return {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def _split(batch: Batch, parts: int, mesh: Mesh | None) -> Batch:
    """[B, ...] to [parts, B / parts, ...]; row r goes to part r % parts, so devices keep rows."""

    def one(x: jax.Array) -> jax.Array:
        rows = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        if mesh is None:
            return rows
        return jax.lax.with_sharding_constraint(rows, sharding.batch_sharding(mesh, lead=1))

    return {name: one(x) for name, x in batch.items()}


def _average(ema: Any, params: Any, decay: jax.Array) -> Any:
    return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, ema, params)


def _merge(groups: list[str], found: list[Metrics]) -> Metrics:
    scalars = [{k: v for k, v in _floats(one).items() if not v.ndim} for one in found]
    if len(groups) == 1:
        return scalars[0]
    merged = {f"{g}/{name}": v for g, one in zip(groups, scalars) for name, v in one.items()}
    return merged | {"loss": jnp.sum(jnp.stack([one["loss"] for one in scalars]))}
