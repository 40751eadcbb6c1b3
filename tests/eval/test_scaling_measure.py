"""From a run to its row: parameters, budgets, and what was read."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest

from cosyjax.data.config import SourceConfig
from cosyjax.errors import InputError
from cosyjax.eval.scaling.measure import count_seen, measure_run, non_embedding_params
from cosyjax.infer.modules import parameter_shapes
from cosyjax.train.config import TrainConfig

HOME = Path(__file__).parents[2]
CONFIG = HOME / "configs" / "lm_scaling.py"
SMOKE = (SourceConfig(str(HOME / "tests" / "data" / "smoke")),)


@pytest.fixture(scope="module")
def get_config():
    return runpy.run_path(str(CONFIG))["get_config"]


def on_smoke(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, sources=SMOKE))


def test_parameters_without_tables_are_blocks_norm_and_head(get_config):
    model = get_config(depth=3, head=16).task.model
    shapes = parameter_shapes("text_speech_lm", model)
    size = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    tables = sum(n for name, n in size.items() if "embedding" in name)
    assert non_embedding_params(model) == sum(size.values()) - tables
    assert model.num_params() == sum(size.values()) and tables > 0


@pytest.mark.parametrize("depth, head", [(1, 8), (4, 16), (6, 64)])
def test_a_run_spends_its_budget_to_the_next_step(get_config, depth: int, head: int):
    config = get_config(depth=depth, head=head, flops=1e13)
    step = config.task.cost({"ids": (4, 320)}).flops
    assert abs(config.num_steps * step - 1e13) <= step / 2
    assert config.task.model.embed_dim == head * depth
    assert config.optimizer.peak_lr * head * depth == pytest.approx(6e-3 * 64)


def test_on_tpus_a_run_spends_its_budget_on_longer_rows(get_config):
    config = get_config(depth=12, flops=1e19, rows=64, chips=8)
    shape = (config.data.batch_size, config.data.max_length)
    assert shape == (64, 2048) and config.task.model.attention == "splash"
    step = config.task.cost({"ids": shape}).flops
    assert config.num_steps * step == pytest.approx(1e19, rel=1e-3)
    assert config.mesh.data * config.mesh.fsdp == 8


def test_runs_of_one_budget_read_the_same_batches(get_config):
    few, many = (get_config(depth=d, head=8, flops=1e12) for d in (1, 4))
    assert few.data == many.data and few.seed == many.seed
    assert few.num_steps > 2 * many.num_steps


def test_a_budget_of_less_than_a_step_is_refused(get_config):
    with pytest.raises(InputError, match="less than one step .* depth 6"):
        get_config(depth=6, flops=1e9)


def test_what_was_read_is_what_the_batches_hold(get_config):
    config = on_smoke(get_config(depth=2, flops=2e11, rows=2, length=256, text_vocab=400))
    batches = iter(config.data.dataset("train", seed=config.seed))
    held = [next(batches) for _ in range(config.num_steps)]
    records = sum(int(np.sum(batch["records"] >= 0)) for batch in held)
    speech = sum(
        int(np.sum(batch["targets"] < 6561) - np.sum(batch["targets"] < 0)) for batch in held
    )
    epochs, tokens = count_seen(config)
    assert 5 < config.num_steps < 200 and tokens == speech > 0
    assert epochs == pytest.approx(records / len(config.data.open("train")[0]), abs=1e-3)


def test_a_folder_without_a_run_has_no_row(tmp_path: Path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        measure_run(tmp_path, 1e12, "unknown")
