"""What a config compiles to: the layout of the state, the step and the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from cosyjax import sharding
from cosyjax.train import partition
from cosyjax.train.config import TrainConfig
from cosyjax.train.state import TrainState, make_init, make_optimizers
from cosyjax.train.step import make_step
from cosyjax.train.task import Batch, Metrics, Params


class Program(NamedTuple):
    """Everything that is fixed during a run."""

    config: TrainConfig
    layout: partition.Layout
    loader: partition.Loader
    init: Callable[[jax.Array], TrainState]  # jitted: parameters are born where they lie
    step: Any  # a jitted `Step`; takes the state's memory
    evaluate: Callable[[Params, Batch, jax.Array], Metrics]  # jitted
    table: str  # what lies where


def make_program(config: TrainConfig, devices: Sequence[Any] | None = None) -> Program:
    """Lays a run out on its mesh; nothing is computed yet.

    Args:
      config: the run.
      devices: to lay it out on; by default all that are here.

    Raises:
      InputError: a mesh, batch or parameter that does not fit.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices)
    optimizers = make_optimizers(config.task, config)
    init, boxed = make_init(config.task, config, optimizers)
    layout = partition.make_layout(init, boxed, optimizers, config.rules, mesh)
    whole = sharding.replicated(mesh)
    step = make_step(
        config.task,
        optimizers,
        seed=config.seed,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
        mesh=mesh,
    )
    return Program(
        config=config,
        layout=layout,
        loader=partition.find_loader(mesh, config.data.batch_size, config.accumulate),
        init=jax.jit(init, out_shardings=layout.shardings),
        step=jax.jit(
            sharding.placed(step, mesh, config.rules),
            donate_argnums=0,
            out_shardings=(layout.shardings, whole),
        ),
        evaluate=jax.jit(
            sharding.placed(config.task.evaluate, mesh, config.rules), out_shardings=whole
        ),
        table=partition.describe(layout, config.rules, boxed),
    )


def replicate(params: Any, layout: partition.Layout) -> Any:
    """Copies of sharded parameters on this process's first device."""
    whole = sharding.replicated(layout.mesh)
    gathered = jax.jit(lambda tree: tree, out_shardings=whole)(params)
    return jax.tree.map(lambda x: x.addressable_data(0), gathered)
