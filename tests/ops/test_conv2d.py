"""The two-dimensional convolution against a sum written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops.conv2d import conv2d

X = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))
KERNEL = jax.random.normal(jax.random.key(1), (3, 5, 3, 4))


def written_out(stride, padding):
    x = np.pad(np.asarray(X), ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    rows = range(0, x.shape[1] - 2, stride[0])
    columns = range(0, x.shape[2] - 4, stride[1])
    y = [
        [np.einsum("bhwd,hwde->be", x[:, i : i + 3, j : j + 5], KERNEL) for j in columns]
        for i in rows
    ]
    return np.asarray(y).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("stride, padding", [((1, 1), (0, 0)), ((2, 3), (1, 2))])
@pytest.mark.parametrize("compute, atol", [("float32", 1e-5), ("bfloat16x3", 3e-4)])
def test_it_is_the_sum_over_the_taps(stride, padding, compute, atol):
    y = jax.jit(lambda: conv2d(X, KERNEL, stride=stride, padding=padding, compute=compute))()
    np.testing.assert_allclose(y, written_out(stride, padding), atol=atol, rtol=0)


def test_low_precision_products_have_gradients():
    def loss(kernel, compute):
        return jnp.sum(conv2d(X, kernel, padding=(1, 2), compute=compute) ** 2)

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    wanted, got = grad(KERNEL, "float32"), grad(KERNEL, "bfloat16")
    assert float(jnp.max(jnp.abs(got - wanted)) / jnp.max(jnp.abs(wanted))) < 0.02


@pytest.mark.parametrize("stride, padding", [((1, 2), (1, 2)), ((2, 3), (1, 2)), ((3, 1), (0, 0))])
def test_strides_do_not_change_what_a_gradient_is(stride, padding):
    """Finite differences of the sum that is written out, in the direction of the gradient."""
    weights = np.asarray(jax.random.normal(jax.random.key(2), written_out(stride, padding).shape))
    loss = lambda x, kernel: jnp.sum(weights * conv2d(x, kernel, stride=stride, padding=padding))
    by_x, by_kernel = jax.jit(jax.grad(loss, argnums=(0, 1)))(X, KERNEL)
    # Linear in either, so that the product with the gradient is the loss itself.
    whole = float(np.sum(weights * written_out(stride, padding)))
    assert float(jnp.sum(by_x * X)) == pytest.approx(whole, rel=1e-5)
    assert float(jnp.sum(by_kernel * KERNEL)) == pytest.approx(whole, rel=1e-5)
    one = jnp.zeros(X.shape).at[1, 3, 4, 2].set(1.0)
    moved = jax.jit(loss)(X + one, KERNEL) - jax.jit(loss)(X, KERNEL)
    assert float(by_x[1, 3, 4, 2]) == pytest.approx(float(moved), abs=1e-3)
