"""Parameters that start from a bundle or a text model."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.train import init as starts
from cosyjax.train.tasks.lm import BASE, GROUP, LMTask
from cosyjax.train.tasks.lora import LoRAConfig

MODULE = "text_speech_lm"


def test_a_language_model_starts_from_a_bundle_and_goes_back_into_one(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, modules=(MODULE,))
    model = dataclasses.replace(bundle.config.lm, scan_layers=True, compute="bfloat16")
    task = LMTask(model)
    given = task.pretrained(tiny_bundle)
    shapes = nn.meta.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    drawn = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    params, kept = starts.replace(drawn, given)
    assert kept == []
    found, trees = task.modules(params)
    assert found[MODULE] == bundle.config.lm
    jax.tree.map(np.testing.assert_array_equal, trees[MODULE], dict(bundle.params[MODULE]))
    assert set(LMTask(model, lora=LoRAConfig(rank=2)).pretrained(tiny_bundle)) == {BASE}


def test_another_size_of_model_is_refused(tiny_bundle: Path) -> None:
    config = load_bundle(tiny_bundle, modules=(MODULE,)).config.lm
    with pytest.raises(InputError, match="misshapen"):
        LMTask(dataclasses.replace(config, mlp_dim=config.mlp_dim + 1)).pretrained(tiny_bundle)


def test_what_is_not_given_keeps_what_was_drawn_and_placement_stays() -> None:
    device = jax.devices()[3]
    drawn = {GROUP: {"a": jax.device_put(np.zeros(3, np.float32), device), "b": jnp.ones(2)}}
    params, kept = starts.replace(drawn, {GROUP: {"a": np.arange(3)}})
    assert kept == [f"{GROUP}.b"] and params[GROUP]["b"] is drawn[GROUP]["b"]
    assert params[GROUP]["a"].devices() == {device} and params[GROUP]["a"].dtype == np.float32
    np.testing.assert_array_equal(params[GROUP]["a"], [0, 1, 2])


def test_a_parameter_that_the_task_does_not_have_is_named() -> None:
    drawn = {GROUP: {"a": jnp.zeros(3)}}
    with pytest.raises(InputError, match=r"text_speech_lm.c: \(2,\), needed nothing"):
        starts.replace(drawn, {GROUP: {"c": np.zeros(2)}})
