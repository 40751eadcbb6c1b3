"""Logical axes to mesh axes: what fits is sharded, what does not is refused by name."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers.basic import Dense

RULES = (("embed", "fsdp"), ("mlp", "tensor"))


def boxed_dense(features: int, axes: tuple[str, str]):
    x = jnp.zeros((2, 8))
    return jax.eval_shape(lambda key: Dense(features, axes).init(key, x), jax.random.key(0))


def test_a_kernel_lies_on_the_axes_that_the_rules_name() -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    shardings = sharding.param_shardings(boxed_dense(6, ("embed", "mlp")), RULES, mesh)
    kernel = shardings["params"]["kernel"]
    assert kernel.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    assert kernel.shard_shape((8, 6)) == (4, 3)


def test_a_size_that_does_not_divide_names_parameter_and_divisors() -> None:
    mesh = sharding.make_mesh(1, 2, 4)
    with pytest.raises(InputError, match=r"(kernel|bias).*mlp=6.*1, 2, 3, 6"):
        sharding.param_shardings(boxed_dense(6, ("embed", "mlp")), RULES, mesh)


def test_two_dims_on_one_mesh_axis_are_refused() -> None:
    mesh = sharding.make_mesh(1, 2, 1)
    with pytest.raises(InputError, match="two dims on one mesh axis"):
        sharding.param_shardings(boxed_dense(6, ("embed", "embed")), RULES, mesh)


def test_a_rule_for_an_unknown_mesh_axis_is_refused() -> None:
    with pytest.raises(InputError, match="model"):
        sharding.param_shardings(
            boxed_dense(6, ("embed", "mlp")), (("embed", "model"),), sharding.make_mesh()
        )


def test_bytes_per_device_count_the_shard() -> None:
    mesh = sharding.make_mesh(1, 2, 2)
    boxed = boxed_dense(6, ("embed", "mlp"))
    shardings = sharding.param_shardings(boxed, RULES, mesh)
    assert sharding.bytes_per_device(nn.meta.unbox(boxed), shardings) == (4 * 3 + 3) * 4


def test_a_sharded_layer_computes_what_a_single_device_does() -> None:
    mesh = sharding.make_mesh(2, 2, 2)
    layer, x = Dense(6, ("embed", "mlp")), jax.random.normal(jax.random.key(1), (4, 8))
    shardings = sharding.param_shardings(boxed_dense(6, ("embed", "mlp")), RULES, mesh)
    init = lambda key: nn.meta.unbox(layer.init(key, x))
    params = init(jax.random.key(0))
    sharded = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
    got = jax.jit(layer.apply)(sharded, x)
    np.testing.assert_allclose(got, layer.apply(params, x), atol=1e-6)
