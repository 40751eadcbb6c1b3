import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops import fast_conv, product

FRAMES, INPUTS, FEATURES = 57, 5, 6


def arrays(width, frames=FRAMES):
    stream = np.random.default_rng(0)
    shapes = (2, frames, INPUTS), (width, INPUTS, FEATURES)
    return [stream.standard_normal(shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, static_argnums=2)
def direct(x, kernel, dilation):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        ((0, 0),),
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def tiled(x, kernel, dilation):
    points = fast_conv.transform_kernel(kernel)
    assert points.shape == fast_conv.points_shape(*kernel.shape)
    width = kernel.shape[0]
    return fast_conv.toom_cook(x, points, product.einsum, width=width, dilation=dilation)


@pytest.mark.parametrize("width, dilation", [(3, 1), (4, 5), (7, 3), (11, 1), (11, 5)])
def test_tiles_convolve_as_the_direct_convolution_does(width, dilation):
    x, kernel = arrays(width)
    wanted = direct(x, kernel, dilation)
    got = jax.jit(tiled, static_argnums=2)(x, kernel, dilation)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_gradients_through_tiles_equal_the_direct_ones():
    x, kernel = arrays(7)
    loss = lambda conv: lambda x, k: jnp.sum(jnp.sin(conv(x, k, 3)))
    gradients = lambda conv: jax.jit(jax.grad(loss(conv), (0, 1)))(x, kernel)
    for a, b in zip(gradients(tiled), gradients(direct), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("frames, dilation", [(40, 1), (1500, 4)])
def test_shares_of_taps_convolve_in_one_piece_and_in_tiles(frames, dilation, monkeypatch):
    monkeypatch.setattr(fast_conv, "WIDE_BYTES", 1)
    x, kernel = arrays(3, frames)
    run = functools.partial(fast_conv.wide, product=product.einsum, dilation=dilation)
    got = jax.jit(run)(x, kernel)
    np.testing.assert_allclose(got, direct(x, kernel, dilation), atol=1e-4)


def test_tiles_lose_little_of_float32():
    x = np.random.default_rng(0).standard_normal((1, 200, 64)).astype(np.float32)
    kernel = np.random.default_rng(1).standard_normal((11, 64, 64)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), 11, axis=0)
    exact = np.einsum("tdk,kde->te", windows, kernel.astype(np.float64))
    run = jax.jit(functools.partial(tiled, dilation=1))
    error = np.std(np.asarray(run(jnp.asarray(x), jnp.asarray(kernel)))[0] - exact)
    assert error < 2e-6 * np.std(exact)
