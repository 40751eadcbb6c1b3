"""Sizes of the language model and the flow in configs/."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import jax
import pytest

from cosyjax import config as configs
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.flow import FlowConfig
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.config import read_config

FOLDER = Path(__file__).parents[2] / "configs"


def get_config(name: str, **values: Any) -> Any:
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](**values)


@pytest.mark.parametrize("depth", [5, 12])
def test_a_language_model_of_any_depth_has_the_parameters_that_it_counts(depth: int) -> None:
    config = get_config("lm", depth=depth)
    shapes = jax.eval_shape(config.task.init, jax.random.key(0))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert total == config.task.model.num_params()
    assert config.task.model.embed_dim == 64 * depth


def test_the_released_sizes_are_those_of_the_models() -> None:
    lm, flow = (get_config(name, size="cosyvoice2").task for name in ("lm", "flow"))
    assert lm.exported == TextSpeechLMConfig() and flow.exported == FlowConfig()


@pytest.mark.parametrize("depth", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_flow_of_any_depth_goes_into_a_bundle(depth: int) -> None:
    task = get_config("flow", depth=depth, masks="paper").task
    assert parameter_shapes("flow", task.exported)["encoder_proj.kernel"][1] == 80
    assert task.model.training.masks == "paper"


@pytest.mark.parametrize(
    "name, values", [("lm", {}), ("lm", {"size": "cosyvoice2", "lora": 8}), ("flow", {})]
)
def test_a_config_is_read_back_from_its_json(name: str, values: dict) -> None:
    config = get_config(name, **values)
    assert read_config(json.loads(json.dumps(configs.to_dict(config)))) == config
