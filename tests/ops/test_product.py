import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops import product

RELATIVE = {"float32": 2e-6, "bfloat16": 1e-2, "bfloat16x3": 3e-5}


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def reference(x, kernel, stride, dilation, padding):
    """Sums taps one by one in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), padding, (0, 0)))
    total = (x.shape[1] - dilation * (kernel.shape[0] - 1) - 1) // stride + 1
    last = (total - 1) * stride + 1
    return sum(
        x[:, k * dilation : k * dilation + last : stride] @ np.asarray(tap, np.float64)
        for k, tap in enumerate(kernel)
    )


@pytest.mark.parametrize("compute", product.COMPUTE_TYPES)
@pytest.mark.parametrize(
    "width, stride, dilation, padding, channels, frames",
    [
        (3, 1, 1, (1, 1), 8, 20),
        (3, 2, 1, (1, 1), 8, 21),
        (5, 1, 2, (8, 0), 8, 20),
        (6, 3, 1, (1, 1), 8, 121),
        (7, 1, 5, (15, 15), 32, 601),  # on a CPU by tiles
    ],
)
def test_conv1d_sums_its_taps(compute, width, stride, dilation, padding, channels, frames):
    x, kernel = normal(2, frames, channels), normal(width, channels, channels + 1)
    sizes = dict(stride=stride, dilation=dilation, padding=padding, compute=compute)
    got = jax.jit(functools.partial(product.conv1d, **sizes))(x, kernel)
    wanted = reference(x, kernel, stride, dilation, padding)
    assert got.dtype == jnp.float32 and got.shape == wanted.shape
    assert np.max(np.abs(got - wanted)) < 5 * RELATIVE[compute] * np.std(wanted)


@pytest.mark.parametrize("width, stride", [(16, 8), (7, 3), (3, 3), (4, 1)])
def test_conv1d_transpose_adds_each_frame_times_the_kernel(width, stride):
    x, kernel = normal(2, 9, 4), normal(width, 4, 3)
    wanted = np.zeros((2, 8 * stride + width, 3))
    for t in range(9):
        wanted[:, t * stride : t * stride + width] += np.einsum("bd,kde->bke", x[:, t], kernel)
    run = functools.partial(product.conv1d_transpose, stride=stride, padding=(1, 2))
    got = jax.jit(run)(x, kernel)
    np.testing.assert_allclose(got, wanted[:, 1:-2], atol=1e-5)


def test_conv1d_transpose_of_an_impulse_is_the_kernel():
    x = np.array([0.0, 1.0, 0.0], np.float32).reshape(1, 3, 1)
    kernel = np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(4, 1, 1)
    got = product.conv1d_transpose(x, kernel, stride=2, padding=(1, 1))
    np.testing.assert_allclose(got[0, :, 0], [0.0, 1.0, 2.0, 3.0, 4.0, 0.0])


def test_gradient_of_the_transposed_convolution_is_the_convolution():
    x, kernel, y = normal(1, 5, 4), normal(6, 4, 3), normal(1, 18, 3)
    run = lambda x: jnp.sum(y * product.conv1d_transpose(x, kernel, stride=3))
    got = jax.jit(jax.grad(run))(x)
    wanted = product.conv1d(y, kernel.transpose(0, 2, 1), stride=3)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
