"""The table of official discriminator keys."""

import json
from importlib import resources

import flax.linen as nn
import jax
import numpy as np

from cosyjax.convert import mapping, names_discriminator
from cosyjax.models.discriminators import (
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
    init_params,
)

TINY = DiscriminatorsConfig(
    MultiPeriodConfig(periods=(2, 3), channels=(4, 4)),
    MultiResolutionConfig(resolutions=((64, 16, 40),), channels=4, num_strided=1),
)


def shapes_of(config):
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in mapping.flatten(nn.meta.unbox(tree)).items()}


def test_the_table_covers_every_key_and_shape_of_the_official_model():
    manifest = resources.files("cosyjax.convert").joinpath("manifest", "discriminator.json")
    official = {k: np.zeros(s, np.float32) for k, s in json.loads(manifest.read_text()).items()}
    config = DiscriminatorsConfig()
    tree = mapping.import_tensors(names_discriminator.rules(config), official, shapes_of(config))
    assert {path: leaf.shape for path, leaf in mapping.flatten(tree).items()} == shapes_of(config)


def test_both_spellings_of_weight_norm_give_the_same_tree_bit_for_bit():
    shapes, rng = shapes_of(TINY), np.random.default_rng(0)
    ours = mapping.unflatten({k: rng.normal(size=s).astype("f4") for k, s in shapes.items()})
    official = mapping.export_tensors(names_discriminator.rules(TINY), ours)
    old, new = names_discriminator.OLD_STYLE, names_discriminator.PARAMETRIZED
    swapped = {}
    for key, value in official.items():
        for a, b in zip(old, new):
            key = key.replace(a, b) if key.startswith("mpd") else key.replace(b, a)
        swapped[key] = value
    assert swapped.keys() != official.keys()
    for tensors in (official, swapped):
        rules = names_discriminator.rules(TINY, tensors)
        back = mapping.flatten(mapping.import_tensors(rules, tensors, shapes))
        for path, leaf in mapping.flatten(ours).items():
            np.testing.assert_array_equal(back[path], leaf)
