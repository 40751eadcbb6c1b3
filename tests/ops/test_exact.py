"""Products whose bits do not depend on how their rows are cut."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import exact

STREAM = np.random.default_rng(0)
X = STREAM.standard_normal((40, 300)).astype(np.float32)
KERNEL = (STREAM.standard_normal((300, 8)) * 10.0 ** np.arange(-4, 4)).astype(np.float32)
dense = jax.jit(exact.dense)


def test_the_product_is_that_of_float64_to_twenty_bits() -> None:
    wanted = X.astype(np.float64) @ KERNEL
    size = np.max(np.abs(KERNEL), axis=0) * np.max(np.abs(X)) * np.sqrt(X.shape[1])
    np.testing.assert_allclose(dense(X, KERNEL) / size, wanted / size, atol=2.0**-20)


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    whole = np.asarray(dense(X, KERNEL))
    for first, last in ((0, 1), (3, 10)):
        np.testing.assert_array_equal(dense(X[first:last], KERNEL), whole[first:last])
    turned = np.asarray(dense(X[:, ::-1], KERNEL[::-1]))  # in another order of summation
    np.testing.assert_array_equal(turned, whole)


def test_zeros_and_small_numbers_keep_their_place() -> None:
    x = np.zeros((3, 4), np.float32)
    x[1] = 1e-20
    got = np.asarray(dense(x, np.ones((4, 2), np.float32)))
    np.testing.assert_allclose(got, [[0, 0], [4e-20, 4e-20], [0, 0]], rtol=1e-5)


def test_gradients_are_those_of_a_product() -> None:
    got = jax.grad(lambda x, k: jnp.sum(jnp.square(exact.dense(x, k))), (0, 1))(X[:2], KERNEL)
    wanted = jax.grad(lambda x, k: jnp.sum(jnp.square(x @ k)), (0, 1))(X[:2], KERNEL)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.max(jnp.abs(b))))
