"""The real training step of a config, laid out on the chips of a topology."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from cosyjax import sharding
from cosyjax.aot.compilable import Compilable
from cosyjax.train import partition
from cosyjax.train.config import TrainConfig
from cosyjax.train.program import make_program


def train_program(config: TrainConfig, devices: Sequence[Any], name: str = "train") -> Compilable:
    """The step of a stage on a batch of the longest bucket.

    Args:
      config: the run; its mesh must fit the devices.
      devices: of the topology.
      name: of the program.

    Raises:
      InputError: a mesh, width or batch that does not divide.
    """
    program = make_program(config, devices)
    mesh = program.layout.mesh
    rows = config.data.longest()
    count = len(next(iter(rows.values())))
    partition.check_rows(count, mesh, config.accumulate, ", ".join(rows))
    where = sharding.batch_sharding(mesh)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=where) for k, v in rows.items()}
    cost = config.task.cost({name: x.shape for name, x in batch.items()})
    return Compilable(
        name=name,
        mesh={axis: size for axis, size in mesh.shape.items()},
        rows=count,
        units=cost.tokens,
        audio_s=cost.audio_s,
        flops=cost.flops,
        params=sum(x.size for x in jax.tree.leaves(program.layout.shapes.params)),
        lower=lambda: program.step.lower(program.layout.abstract, batch),
        causal=config.stage == "lm",
    )


def with_rows(config: TrainConfig, rows: int) -> TrainConfig:
    """The config with so many rows of the longest bucket, over all chips."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))
