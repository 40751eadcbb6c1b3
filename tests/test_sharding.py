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


def total_by_row(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[B, D], [D, M] -> [B, 1]: sums over a dimension that the devices hold in parts."""
    y = sharding.constrain(x @ kernel, "batch", "mlp")

    def own(part: jax.Array) -> jax.Array:
        return jax.lax.psum(part.sum(1, keepdims=True), sharding.mesh_axes("mlp"))

    return sharding.shard_map(own, [("batch", "mlp")], ("batch", None))(y)


def test_by_hand_over_a_mesh_is_the_same_as_on_one_device() -> None:
    x, kernel = jax.random.normal(jax.random.key(0), (8, 4)), jnp.arange(24.0).reshape(4, 6)
    mesh = sharding.make_mesh(2, 2, 2)
    program = jax.jit(sharding.placed(total_by_row, mesh, RULES))
    given = jax.device_put((x, kernel), sharding.replicated(mesh))
    text = program.lower(*given).compile().as_text()
    np.testing.assert_allclose(program(*given), total_by_row(x, kernel), rtol=1e-5)
    assert "f32[2,4]" in text and "all-reduce" in text  # a row's part on each device


def test_without_a_context_nothing_is_laid_out() -> None:
    x = jnp.ones((3, 2))  # divides by no mesh
    assert sharding.mesh_axes("mlp") == ()
    assert sharding.constrain(x, "batch", "mlp") is x
    assert (
        sharding.placed(lambda x: sharding.mesh_axes("mlp"), sharding.make_mesh(1), RULES)(x) == ()
    )


def test_only_axes_of_several_devices_are_named() -> None:
    with sharding.context(sharding.make_mesh(1, 4, 1), RULES):
        assert sharding.mesh_axes("batch") == ("fsdp",)
        assert sharding.mesh_axes("mlp") == ()
        assert sharding.mesh_axes("no such axis") == ()
