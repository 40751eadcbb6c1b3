"""Official names of the language model."""

import json
from importlib import resources

import jax
import numpy as np
import pytest

from cosyjax.convert import names_lm
from cosyjax.convert.mapping import flatten
from cosyjax.errors import InputError
from cosyjax.models.text_speech_lm import TextSpeechLMConfig, init_params

TINY = TextSpeechLMConfig(2, 12, 4, 2, 4, 20, text_vocab_size=30, codebook_size=27)


def _shapes(config):
    tree = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def _official(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes, official = _shapes(config), {}
    for rule in names_lm.rules(config):
        shape = shapes[rule.ours][::-1] if rule.layout == "dense" else shapes[rule.ours]
        official[rule.theirs] = rng.standard_normal(shape).astype(np.float32)
    official[names_lm.TIED_HEAD] = official[names_lm.TEXT_TABLE]
    return official


def test_full_size_keys_shapes_and_order_are_the_official_ones():
    text = resources.files("cosyjax.convert").joinpath("manifest", "llm.json").read_text()
    manifest = {key: tuple(shape) for key, shape in json.loads(text).items()}
    config = names_lm.config_from_shapes(manifest)
    assert config == TextSpeechLMConfig()
    shapes = _shapes(config)
    ours = {
        rule.theirs: shapes[rule.ours][::-1] if rule.layout == "dense" else shapes[rule.ours]
        for rule in names_lm.rules(config)
    }
    keys = [key for key in manifest if key != names_lm.TIED_HEAD]
    assert list(ours) == keys and all(ours[key] == manifest[key] for key in keys)


def test_import_and_export_change_no_bit():
    official = _official(TINY)
    params = names_lm.import_lm(official, TINY, _shapes(TINY))
    back = names_lm.export_lm(params, TINY)
    assert set(back) == set(official)
    for key, value in official.items():
        np.testing.assert_array_equal(back[key], value)


def test_a_tied_head_that_differs_is_an_error_and_an_absent_one_is_not():
    official = _official(TINY)
    with pytest.raises(InputError, match="lm_head.weight differs"):
        names_lm.import_lm(
            official | {names_lm.TIED_HEAD: official[names_lm.TEXT_TABLE] + 1}, TINY, _shapes(TINY)
        )
    del official[names_lm.TIED_HEAD]
    names_lm.import_lm(official, TINY, _shapes(TINY))


def test_heads_are_read_from_the_backbone_config():
    shapes = {key: value.shape for key, value in _official(TINY).items()}
    hf = {"num_attention_heads": 4, "rope_theta": 1e6, "rms_norm_eps": 1e-6}
    assert names_lm.config_from_shapes(shapes, hf) == TINY
    with pytest.raises(InputError, match="heads of 64 do not divide"):
        names_lm.config_from_shapes(shapes)
    with pytest.raises(InputError, match="not a text-speech language model"):
        names_lm.config_from_shapes({"foo": (1,)})
