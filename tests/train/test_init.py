"""Parameters that start from a bundle or a text model."""

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.train.tasks.lm import GROUP, LMTask
from cosyjax.train.tasks.lora import LoRAConfig

MODULE = "text_speech_lm"


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
