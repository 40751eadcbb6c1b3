import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops import product
from tests.products import matrix_products

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


@pytest.mark.parametrize("compute", ["bfloat16", "bfloat16x3"])
@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("...d,de->...e", ((2, 3, 8), (8, 5))),
        ("nrp,npl->nrl", ((2, 6, 4), (2, 4, 5))),
        ("bthp,bshp->bhts", ((2, 3, 4, 5), (2, 6, 4, 5))),
        ("bthp,mhp->bhtm", ((2, 3, 4, 5), (6, 4, 5))),
    ],
)
def test_gradients_of_rounded_products_are_those_of_the_product(compute, subscripts, shapes):
    x, y = (normal(*shape) for shape in shapes)
    plain = lambda x, y: jnp.einsum(subscripts, x, y, precision="highest")
    g = normal(*jax.eval_shape(plain, x, y).shape)
    run = lambda f: jax.jit(lambda x, y: jax.vjp(f, x, y)[1](g))(x, y)
    rounded = functools.partial(product.einsum, subscripts, compute=compute)
    for got, wanted in zip(run(rounded), run(plain), strict=True):
        assert got.dtype == jnp.float32
        assert np.max(np.abs(got - wanted)) < 5 * RELATIVE[compute] * np.std(wanted)


def test_the_gradient_of_a_rounded_operand_keeps_its_type():
    kernel = jnp.asarray(normal(8, 5), jnp.bfloat16)
    loss = lambda kernel: jnp.sum(product.dense(normal(2, 8), kernel, compute="bfloat16") ** 2)
    assert jax.grad(loss)(kernel).dtype == jnp.bfloat16


@pytest.mark.parametrize("width, stride, frames", [(1, 1, 9), (3, 1, 9), (3, 2, 9), (3, 1, 700)])
def test_every_product_of_a_bfloat16_gradient_takes_bfloat16(width, stride, frames):
    x, kernel = normal(2, frames, 8), normal(width, 8, 5)
    run = functools.partial(product.conv1d, stride=stride, compute="bfloat16")
    loss = lambda x, kernel: jnp.sum(jnp.square(run(x, kernel)))
    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, kernel)
    products = [types for types, _ in matrix_products(jaxpr.jaxpr)]
    assert len(products) == 3 and set(products) == {("bfloat16", "bfloat16")}


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "bfloat16x3"])
def test_the_gradient_of_a_convolution_is_that_of_its_taps(compute):
    x, kernel, g = normal(2, 20, 8), normal(3, 8, 5), normal(2, 18, 5)
    taps = lambda x, kernel: sum(
        jnp.einsum("btd,de->bte", x[:, k : k + 18], kernel[k], precision="highest")
        for k in range(3)
    )
    run = lambda f: jax.jit(lambda x, kernel: jax.vjp(f, x, kernel)[1](g))(x, kernel)
    conv = functools.partial(product.conv1d, compute=compute)
    for got, wanted in zip(run(conv), run(taps), strict=True):
        assert np.max(np.abs(got - wanted)) < 5 * RELATIVE[compute] * np.std(wanted)


@pytest.mark.parametrize("width, dilation", [(3, 1), (7, 3)])
def test_the_gradient_of_a_convolution_by_tiles_is_that_of_its_taps(width, dilation):
    num = product.TILED_FRAMES
    x, kernel = normal(1, num + dilation * (width - 1), 32), normal(width, 32, 32)
    g = normal(1, num, 32)
    assert product.tiles_pay(*kernel.shape)
    cut = lambda x, k: x[:, k * dilation : k * dilation + num]
    taps = lambda x, kernel: sum(
        jnp.einsum("btd,de->bte", cut(x, k), kernel[k], precision="highest") for k in range(width)
    )
    run = lambda f: jax.jit(lambda x, kernel: jax.vjp(f, x, kernel)[1](g))(x, kernel)
    conv = functools.partial(product.conv1d, dilation=dilation)
    for got, wanted in zip(run(conv), run(taps), strict=True):
        assert np.max(np.abs(got - wanted)) < 1e-5 * np.std(wanted)
