"""Parameters that start from a bundle or a text model."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.train.tasks.flow import GROUP as FLOW
from cosyjax.train.tasks.flow import FlowTask
from cosyjax.train.tasks.lm import GROUP, LMTask
from cosyjax.train.tasks.lora import LoRAConfig

MODULE = "text_speech_lm"
ENCODER = UpsampleEncoderConfig(32, 2, 32, 1, 1)
ESTIMATOR = EstimatorConfig(80, 32, 32, 1, 1, 2, 16, 32)


def test_a_language_model_starts_from_a_bundle_and_goes_back_into_one(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, modules=(MODULE,))
    model = dataclasses.replace(bundle.config.lm, scan_layers=True, compute="bfloat16")
    task = LMTask(model)
    given = task.load(tiny_bundle)
    shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    assert jax.tree.map(np.shape, given) == jax.tree.map(np.shape, shapes)
    found, trees = task.modules(given)
    assert found[MODULE] == bundle.config.lm
    jax.tree.map(np.testing.assert_array_equal, trees[MODULE], dict(bundle.params[MODULE]))
    # What is missing (the corrections) keeps what was drawn.
    assert set(LMTask(model, lora=LoRAConfig(rank=2)).load(tiny_bundle)) == {GROUP}


def test_another_size_of_model_is_refused(tiny_bundle: Path) -> None:
    config = load_bundle(tiny_bundle, modules=(MODULE,)).config.lm
    with pytest.raises(InputError, match="misshapen"):
        LMTask(dataclasses.replace(config, mlp_dim=config.mlp_dim + 1)).load(tiny_bundle)


def test_one_draw_gives_every_parameter_of_the_flow_its_spread() -> None:
    task = FlowTask(FlowConfig(encoder=ENCODER, estimator=ESTIMATOR))
    drawn = jax.jit(task.init)(jax.random.key(0))
    made = jax.device_get(nn.meta.unbox(drawn))[FLOW]
    shapes = parameter_shapes(FLOW, task.exported)
    flat = {".".join(e.key for e in p): x for p, x in jax.tree_util.tree_leaves_with_path(made)}
    assert {name: x.shape for name, x in flat.items()} == shapes
    for name, value in flat.items():
        if name.endswith("kernel") and value.size > 2_000:
            fan_in = value.size // value.shape[-1]
            assert abs(float(np.std(value)) * fan_in**0.5 - 1) < 0.1, name
        if name.endswith(("scale", ".bias")):
            assert set(np.unique(value)) == {float(name.endswith("scale"))}
    first, second = flat["encoder_proj.kernel"], flat["estimator.mid_0.resnet.first.conv.kernel"]
    assert abs(float(np.corrcoef(first.ravel()[:500], second.ravel()[:500])[0, 1])) < 0.2
