"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops import product, rope


def test_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    score = lambda i, j: jnp.vdot(
        rope.rotate(q, jnp.asarray([[i]]), 100.0), rope.rotate(k, jnp.asarray([[j]]), 100.0)
    )
    np.testing.assert_allclose(score(7, 3), score(104, 100), atol=1e-4)
    assert abs(float(score(7, 3) - score(7, 4))) > 1e-3


def test_pairs_are_half_a_head_apart():
    x = jnp.zeros((1, 1, 1, 4)).at[..., 1].set(1.0)
    angle = 3.0 * 100.0**-0.5
    wanted = [0.0, np.cos(angle), 0.0, np.sin(angle)]
    np.testing.assert_allclose(
        rope.rotate(x, jnp.asarray([[3]]), 100.0)[0, 0, 0], wanted, atol=1e-6
    )


@pytest.mark.parametrize("size", [2, 6, 64])
def test_a_tpu_exchanges_halves_by_a_product_and_turns_as_others_do(size: int):
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, size))
    positions = jnp.arange(40, 45)[None]
    turn = lambda x: rope.rotate(x, positions, 1e4, scale=0.5)
    wanted, back = jax.vjp(turn, x)
    with product.tracing_for("tpu"):
        assert "dot_general" in str(jax.make_jaxpr(turn)(x))
        found, back_by_product = jax.vjp(turn, x)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(back_by_product(x)[0], back(x)[0], atol=1e-6)


def test_what_is_turned_can_be_scaled_and_rounded():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 8))
    positions = jnp.arange(5)[None]
    found = rope.rotate(x, positions, 1e4, scale=0.25, result=jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    wanted = 0.25 * rope.rotate(x, positions, 1e4)
    np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))
