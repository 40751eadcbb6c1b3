"""Streaming convolutions keep the shared contracts."""

import jax
import numpy as np
import pytest

from cosyjax.layers.conv import CausalConv, LookaheadConv, UpsampleConv
from tests.contracts import assert_causal, assert_padding_inert, assert_streams
from tests.drawn import drawn, normal
from tests.jitted import Jitted

X = normal(2, 7, 4)
CALLS = [(1, 6), (3, 4)]
MODULES = {
    "causal": CausalConv(4, 5, 3),
    "upsample": UpsampleConv(4),
    "lookahead": LookaheadConv(4),
}
CONVS = {name: (Jitted(module), drawn(module.init, X)) for name, module in MODULES.items()}


@pytest.mark.parametrize("name", CONVS)
def test_speaking_in_pieces_equals_speaking_at_once(name: str) -> None:
    module, variables = CONVS[name]
    assert_streams(module, variables, X, CALLS, lookahead=3 * (name == "lookahead"))


@pytest.mark.parametrize(
    "name, ratio, last_seen",
    [
        ("causal", 1, lambda t: t),
        ("upsample", 2, lambda t: t // 2),
        ("lookahead", 1, lambda t: t + 3),
    ],
)
def test_the_furthest_frame_seen_is_the_declared_one(name, ratio, last_seen) -> None:
    module, variables = CONVS[name]
    run = lambda x: module.apply(variables, x)
    assert_causal(run, X, last_seen=last_seen, ratio=ratio)


def test_padding_behind_a_causal_convolution_is_inert() -> None:
    module, variables = CONVS["causal"]
    assert_padding_inert(lambda x, lengths: module.apply(variables, x), X, [7, 4])


def test_beyond_the_end_the_lookahead_is_zero() -> None:
    module, variables = CONVS["lookahead"]
    longer = np.pad(X, ((0, 0), (0, 3), (0, 0)))
    whole, padded = module.apply(variables, X), module.apply(variables, longer)
    np.testing.assert_allclose(whole, np.asarray(padded)[:, :7], atol=1e-6)


def test_the_state_does_not_grow() -> None:
    module, variables = CONVS["upsample"]
    state = module.apply(variables, 2, method="init_state")
    _, after = jax.eval_shape(lambda: module.apply(variables, X, state, method="step"))
    assert after.shape == state.shape == (2, 4, 4)
