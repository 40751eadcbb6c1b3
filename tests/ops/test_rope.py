"""Rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import rope


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
