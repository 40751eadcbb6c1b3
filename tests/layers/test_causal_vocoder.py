"""Layers of the causal vocoder: they stream, and folding changes nothing."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers import causal_vocoder as layers
from cosyjax.layers.causal_pitch import ExactConv
from cosyjax.layers.vocoder import fold_kernels
from tests.contracts import assert_causal, assert_streams
from tests.jitted import Jitted

X = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
REPEAT = layers.RepeatConv(3, 7, 4)


class Streaming(nn.Module):
    """A layer with the calls that the contracts make."""

    layer: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.step(x, None)[0]

    def init_state(self, batch: int) -> Any:
        return self.layer.init_state(batch, X.shape[2])

    def step(self, x: jax.Array, state: Any) -> Any:
        return self.layer.step(x, state)


def drawn(module: Any, x: np.ndarray, **options: Any) -> Any:
    """Parameters of which none is zero or one."""
    key = jax.random.key(0)
    tree = nn.meta.unbox(jax.eval_shape(lambda: module.init(key, x, **options)))["params"]
    stream = np.random.default_rng(1)
    draw = lambda leaf: jnp.asarray(0.3 * stream.standard_normal(leaf.shape), jnp.float32)
    return jax.tree.map(draw, tree)


@pytest.mark.parametrize(
    "layer, ratio",
    [(layers.CausalResidualBlock(3, (2,)), 1), (REPEAT, 4)],
    ids=["block", "repeat"],
)
def test_a_layer_speaks_in_pieces_what_it_speaks_at_once(layer: Any, ratio: int) -> None:
    module = Streaming(layer)
    variables = {"params": drawn(module, X)}
    assert_streams(Jitted(module), variables, X, [(1, 4, 4)])
    fn = jax.jit(lambda x: module.apply(variables, x))
    assert_causal(fn, X[:1], last_seen=lambda t: t // ratio, ratio=ratio)


def test_the_repeating_convolution_is_one_over_repeated_frames() -> None:
    params = drawn(REPEAT, np.pad(X, ((0, 0), (REPEAT.context, 0), (0, 0))))
    joined, _ = layers.join(jnp.asarray(X), None, REPEAT.context)
    plain = fold_kernels(params)
    repeated = np.pad(np.repeat(X, 4, axis=1), ((0, 0), (6, 0), (0, 0)))
    taps = np.stack([repeated[:, k : k + 36] for k in range(7)])
    wanted = np.einsum("kbtd,kde->bte", taps, plain["kernel"]) + plain["bias"]
    np.testing.assert_allclose(REPEAT.apply({"params": params}, joined), wanted, atol=1e-5)
    folded = layers.fold_repeat(params, 4, tiled=True)
    ready = layers.RepeatConv(3, 7, 4, kernels="tiled")
    np.testing.assert_allclose(ready.apply({"params": folded}, joined), wanted, atol=1e-5)


def test_rows_that_wait_or_end_remember_what_they_heard() -> None:
    joined, state = layers.join(jnp.asarray(X), jnp.asarray(X[:, :2]), 2, jnp.array([0, 5]))
    np.testing.assert_array_equal(state, [X[0, :2], X[1, 3:5]])
    np.testing.assert_array_equal(joined[:, 2:], X)


def test_an_exact_convolution_has_the_same_bits_in_pieces() -> None:
    conv = ExactConv(5, 3, kernels="plain")
    params = fold_kernels(drawn(ExactConv(5, 3), X))
    run = jax.jit(lambda x: conv.apply({"params": params}, x))
    whole = np.asarray(run(X))
    np.testing.assert_array_equal(run(X[:, :4]), whole[:, :2])
    np.testing.assert_array_equal(run(X[:1, 2:5]), whole[:1, 2:3])
