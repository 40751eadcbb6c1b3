import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers import vocoder
from tests.contracts import assert_padding_inert

X = np.random.default_rng(0).standard_normal((2, 40, 4)).astype(np.float32)


def parameters(module, x=X):
    """Draws every parameter, so that no bias is zero and no alpha is one."""
    tree = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(1), x))["params"]
    stream = np.random.default_rng(2)
    draw = lambda leaf: 0.2 + 0.2 * stream.standard_normal(leaf.shape)
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf), jnp.float32), tree)


def run(module, params, *args):
    return jax.jit(module.apply)({"params": params}, *args)


def test_snake_adds_a_squared_sine():
    alpha = np.array([0.5, 1.0, 2.0, 3.0], np.float32)
    wanted = X + np.sin(alpha * X) ** 2 / alpha
    np.testing.assert_allclose(jax.jit(vocoder.snake)(X, alpha), wanted, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_folded_kernels_equal_normed_ones(transposed):
    sizes = dict(features=3, width=4, stride=2, padding=1, transposed=transposed)
    module = vocoder.NormedConv(**sizes)
    params = parameters(module)
    folded = vocoder.fold_kernels(params)
    assert sorted(folded) == ["bias", "kernel"]
    got = run(vocoder.NormedConv(**sizes, kernels="plain"), folded, X)
    np.testing.assert_allclose(got, run(module, params, X), atol=1e-5)


def test_scale_is_the_length_per_output_or_per_input_if_transposed():
    plain = parameters(vocoder.NormedConv(3, 4))
    turned = parameters(vocoder.NormedConv(3, 4, transposed=True))
    assert plain["scale"].shape == (1, 1, 3) and turned["scale"].shape == (1, 4, 1)
    kernel = vocoder.fold_kernels(turned)["kernel"]
    length = jnp.sqrt(jnp.sum(kernel**2, axis=(0, 2)))
    np.testing.assert_allclose(length, jnp.abs(turned["scale"][0, :, 0]), rtol=1e-5)


def test_tiled_kernels_equal_normed_ones():
    x = np.random.default_rng(0).standard_normal((1, 90, 32)).astype(np.float32)
    module = vocoder.ResidualBlock(7, (3,))
    params = parameters(module, x)
    tiled = vocoder.fold_kernels(params, tiled=True)
    assert "points" in tiled["dilated_0"]
    got = run(vocoder.ResidualBlock(7, (3,), kernels="tiled"), tiled, x)
    wanted = run(module, params, x)
    np.testing.assert_allclose(got, wanted, atol=2e-5 * float(jnp.std(wanted)))


def test_padding_changes_nothing_in_a_residual_block():
    module = vocoder.ResidualBlock(5, (1, 3))
    params = parameters(module)

    @jax.jit
    def masked(x, lengths):
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
        return module.apply({"params": params}, x, mask)

    assert_padding_inert(masked, X, [23, 40])
