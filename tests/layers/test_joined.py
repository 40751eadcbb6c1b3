"""Layers of one input by one product: the same numbers, fewer products, the same parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.layers.basic import LORA_DOWN, LORA_UP
from cosyjax.layers.transformer import Transformer, TransformerConfig
from tests.drawn import drawn, normal
from tests.products import matrix_products

APART = TransformerConfig(1, 12, 4, 2, 4, 20, rope_theta=100.0)
X = normal(2, 5, 12)
VARIABLES = drawn(Transformer(APART).init, X)


def run(join, variables=VARIABLES):
    config = dataclasses.replace(APART, join_qkv=join)
    assert jax.tree.structure(drawn(Transformer(config).init, X)) == jax.tree.structure(VARIABLES)
    loss = lambda v: jnp.sum(Transformer(config).apply(v, X) ** 3)
    return jax.jit(jax.value_and_grad(loss))(variables)


def num_products(join):
    config = dataclasses.replace(APART, join_qkv=join)
    trace = lambda v: Transformer(config).apply(v, X)
    return len(list(matrix_products(jax.make_jaxpr(trace)(VARIABLES).jaxpr)))


def corrected():
    """The tree with a low-rank correction of one of three layers."""
    low = {LORA_DOWN: normal(12, 2, seed=1), LORA_UP: normal(2, 8, seed=2)}
    params = VARIABLES["params"]
    block = params["layers_0"]
    attention = {**block["attention"], "key": {**block["attention"]["key"], **low}}
    return {"params": {**params, "layers_0": {**block, "attention": attention}}}


@pytest.mark.parametrize("variables", [VARIABLES, corrected()], ids=["plain", "low-rank"])
def test_values_and_gradients_are_those_of_products_apart(variables):
    got, wanted = run(True, variables), run(False, variables)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_two_products_are_saved_and_none_where_kernels_are_cut():
    assert num_products(True) == num_products(False) - 2
    with sharding.context(sharding.make_mesh(1, 2, 2), sharding.DEFAULT_RULES):
        assert num_products(True) == num_products(False)
