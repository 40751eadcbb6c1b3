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
