import json
from importlib import resources

import jax
import numpy as np
import pytest

from cosyjax.convert import names_hift
from cosyjax.convert.mapping import export_tensors, flatten, import_tensors, unflatten
from cosyjax.errors import InputError
from cosyjax.models.hift import HiFTConfig, init_params

SMALL = HiFTConfig(
    num_mels=5,
    base_channels=16,
    f0_channels=4,
    f0_layers=2,
    block_widths=(3, 5),
    block_dilations=((1, 3),) * 2,
    source_block_widths=(3, 5, 7),
    source_block_dilations=((1,),) * 3,
    num_harmonics=3,
)


def manifest():
    folder = resources.files("cosyjax.convert").joinpath("manifest", "hift.json")
    return {key: tuple(shape) for key, shape in json.loads(folder.read_text()).items()}


def shapes_of(config):
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def test_rules_have_the_official_keys_in_the_official_order():
    assert [rule.theirs for rule in names_hift.rules(HiFTConfig())] == list(manifest())


def test_official_shapes_give_the_official_config():
    assert names_hift.config_from_shapes(manifest()) == HiFTConfig()


def test_every_official_shape_fits_ours():
    weights = {key: np.zeros(shape, np.float32) for key, shape in manifest().items()}
    import_tensors(names_hift.rules(HiFTConfig()), weights, shapes_of(HiFTConfig()))


def test_the_way_there_and_back_changes_no_bit():
    stream = np.random.default_rng(0)
    shapes = shapes_of(SMALL)
    tree = unflatten({path: stream.standard_normal(shape) for path, shape in shapes.items()})
    rules = names_hift.rules(SMALL)
    official = export_tensors(rules, tree)
    sizes = {key: value.shape for key, value in official.items()}
    assert names_hift.config_from_shapes(sizes) == SMALL
    back = import_tensors(rules, official, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_generator_prefix_is_removed():
    assert names_hift.strip_prefix({"generator.conv_pre.bias": 1}) == {"conv_pre.bias": 1}


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(InputError, match="conv_post.bias"):
        names_hift.config_from_shapes({"llm.weight": (2, 2)})
