"""The state lies where its logical axes say, and sharded runs compute what one device does."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.train.config import MeshConfig, OptimizerConfig, TrainConfig
from cosyjax.train.partition import place_batch
from cosyjax.train.program import make_program
from tests.train.toy import ToyData, ToyTask

CONFIG = TrainConfig(
    stage="toy",
    task=ToyTask(single=False),
    data=ToyData(),
    optimizer=OptimizerConfig(peak_lr=0.01),
    mesh=MeshConfig(1, 1, 1),
    ema_decay=0.9,
)
MESHES = {"fsdp x tensor": MeshConfig(1, 4, 2), "data x fsdp": MeshConfig(4, 2, 1)}


def run(config: TrainConfig, steps: int):
    program = make_program(config)
    state, losses = program.init(jax.random.key(config.seed)), []
    rows_of = iter(config.data.dataset("train", seed=0))
    for _ in range(steps):
        rows = {k: v for k, v in next(rows_of).items() if k != "records"}
        state, metrics = program.step(state, place_batch(rows, program.layout.mesh))
        losses.append(float(metrics["loss"]))
    return program, state, losses


@pytest.fixture(scope="module")
def alone():
    return run(CONFIG, 20)


def assert_equal_runs(got, wanted) -> None:
    np.testing.assert_allclose(got[2], wanted[2], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_sharded_run_equals_a_single_device_and_compiles_once(alone) -> None:
    got = run(dataclasses.replace(CONFIG, mesh=MESHES["fsdp x tensor"]), 20)
    assert_equal_runs(got, alone)
    assert got[0].step._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_mesh_and_microbatches_equal_a_single_device(name: str, accumulate: int) -> None:
    task = dataclasses.replace(CONFIG.task, noise=0.0)
    config = dataclasses.replace(CONFIG, data=ToyData(batch_size=16), task=task)
    got = run(dataclasses.replace(config, mesh=MESHES[name], accumulate=accumulate), 20)
    assert_equal_runs(got, run(config, 20))


def test_parameters_moments_and_averages_are_cut_alike() -> None:
    layout = make_program(dataclasses.replace(CONFIG, mesh=MESHES["fsdp x tensor"])).layout
    wanted = jax.sharding.PartitionSpec("fsdp", "tensor")
    shardings = layout.shardings
    kernel = lambda tree: tree["generator"]["up"]["kernel"].spec
    assert kernel(shardings.params) == kernel(shardings.ema) == wanted
    assert shardings.opt_state["generator"][1].nu["up"]["kernel"].spec == wanted


def test_parameters_are_born_where_they_lie() -> None:
    program = make_program(dataclasses.replace(CONFIG, mesh=MESHES["fsdp x tensor"]))
    kernel = program.init(jax.random.key(0)).params["generator"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8)


def test_the_table_names_parameters_cuts_bytes_and_frozen_groups() -> None:
    config = dataclasses.replace(CONFIG, task=ToyTask(), mesh=MESHES["fsdp x tensor"])
    table = make_program(config).table
    line = next(text for text in table.splitlines() if text.startswith("generator.up.kernel"))
    assert line.split() == ["generator.up.kernel", "[8,", "16]", "fsdp", "x", "tensor", "64"]
    assert "frozen: critic" in table and "bytes per device" in table


def test_an_axis_that_does_not_divide_names_the_parameter() -> None:
    config = dataclasses.replace(CONFIG, task=ToyTask(embed=6), mesh=MESHES["fsdp x tensor"])
    with pytest.raises(InputError, match=r"kernel.*embed=6.*fsdp"):
        make_program(config)


def test_two_dims_on_one_mesh_axis_name_the_parameter() -> None:
    config = dataclasses.replace(
        CONFIG, task=ToyTask(embed=8, mlp=8, axes=("embed", "embed")), mesh=MESHES["data x fsdp"]
    )
    with pytest.raises(InputError, match="kernel.*two dims on one mesh axis"):
        make_program(config)


def test_a_batch_that_does_not_divide_says_what_does() -> None:
    config = dataclasses.replace(CONFIG, data=ToyData(batch_size=6), mesh=MESHES["data x fsdp"])
    with pytest.raises(InputError, match="batch_size=6 .*use 8"):
        make_program(config)


def test_minus_one_takes_the_devices_that_remain() -> None:
    program = make_program(dataclasses.replace(CONFIG, mesh=MeshConfig(-1, 2, 1)))
    assert dict(program.layout.mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}


def test_rows_that_do_not_divide_are_refused_before_they_are_placed() -> None:
    mesh = make_program(dataclasses.replace(CONFIG, mesh=MESHES["fsdp x tensor"])).layout.mesh
    with pytest.raises(InputError, match="batch of 4 rows .x. does not divide .* = 8"):
        place_batch({"x": np.zeros((4, 2))}, mesh, accumulate=2)
