"""The table of official flow names covers the whole state dict, in its order."""

import json
from importlib import resources

import jax
import numpy as np
import pytest

from cosyjax.convert import mapping, names_flow
from cosyjax.errors import InputError
from cosyjax.models.flow import FlowConfig
from tests.tiny_flow import TINY, tiny_params

MANIFEST = {
    key: tuple(shape)
    for key, shape in json.loads(
        resources.files("cosyjax.convert").joinpath("manifest", "flow.json").read_text()
    ).items()
}


def test_the_table_is_the_official_state_dict_in_its_order() -> None:
    assert [rule.theirs for rule in names_flow.rules(FlowConfig())] == list(MANIFEST)


def test_the_official_shapes_give_the_default_config() -> None:
    assert names_flow.config_from_shapes(MANIFEST) == FlowConfig()


def test_the_way_to_official_names_and_back_changes_no_bit() -> None:
    params = jax.tree.map(np.asarray, tiny_params())
    rules = names_flow.rules(TINY)
    official = mapping.export_tensors(rules, params)
    shapes = {path: leaf.shape for path, leaf in mapping.flatten(params).items()}
    back = mapping.import_tensors(rules, official, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    sizes = {key: value.shape for key, value in official.items()}
    read = names_flow.config_from_shapes(sizes, estimator_heads=2, mask_chunk=2)
    assert (read.encoder, read.estimator) == (TINY.encoder, TINY.estimator)


def test_another_checkpoint_is_named_as_such() -> None:
    with pytest.raises(InputError, match="not an official flow"):
        names_flow.config_from_shapes({"conv_pre.weight": (1, 2, 3)})


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="not 7 heads"):
        names_flow.config_from_shapes(MANIFEST, estimator_heads=7)
