"""Vector quantization: the nearest row, and gradients that pass the choice."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import vq

TABLE = jnp.asarray([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])


def test_the_nearest_row_is_chosen():
    x = jnp.asarray([[0.4, 0.3], [2.0, 1.0], [1.0, 3.5]])
    np.testing.assert_array_equal(vq.nearest(x, TABLE), [0, 1, 2])


def test_each_row_is_nearest_to_itself():
    np.testing.assert_array_equal(vq.nearest(TABLE[None], TABLE), [[0, 1, 2]])


def test_the_value_is_the_row_and_the_gradient_that_of_the_features():
    x = jnp.asarray([[0.4, 0.3]])
    value, pull = jax.vjp(lambda x, row: vq.straight_through(x, row), x, TABLE[1:2])
    np.testing.assert_array_equal(value, TABLE[1:2])
    to_x, to_row = pull(jnp.ones((1, 2)))
    np.testing.assert_array_equal(to_x, jnp.ones((1, 2)))
    assert not np.any(to_row)
