"""Grouped-query attention: contracts, and a dense softmax written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers.attention import GroupedQueryAttention, Span, write
from tests import contracts
from tests.compiled import Compiled

MODULE = GroupedQueryAttention(4, 2, 4, features=12, rope_theta=100.0)
LAYER = Compiled(MODULE)
X = jax.random.normal(jax.random.key(0), (2, 7, 12))
VARIABLES = nn.meta.unbox(jax.jit(MODULE.init)(jax.random.key(1), X))


def test_it_streams_with_room_to_spare_in_the_cache():
    contracts.assert_streams(LAYER, VARIABLES, X, [(1, 1, 1, 4)], init_args=(9,))


def test_it_is_causal():
    contracts.assert_causal(lambda x: LAYER.apply(VARIABLES, x), X[:1], last_seen=lambda t: t)


def test_padding_is_inert():
    run = lambda x, lengths: LAYER.apply(VARIABLES, x, Span(lengths=lengths))
    contracts.assert_padding_inert(run, X, [4, 7])


def test_a_padded_step_leaves_no_trace_in_the_cache():
    state = LAYER.apply(VARIABLES, 2, 9, method="init_state")
    poisoned = X[:, :4].at[0, 2:].set(jnp.nan)
    lengths = jnp.asarray([2, 4])
    _, state = LAYER.apply(VARIABLES, poisoned, state, Span(lengths=lengths), method="step")
    np.testing.assert_array_equal(state.position, lengths)
    y, _ = LAYER.apply(VARIABLES, X[:, 4:5], state, method="step")
    short = jnp.concatenate([X[:1, :2], X[:1, 4:5]], axis=1)
    np.testing.assert_allclose(y[0, 0], LAYER.apply(VARIABLES, short)[0, -1], atol=2e-5)
    np.testing.assert_allclose(y[1, 0], LAYER.apply(VARIABLES, X[1:, :5])[0, -1], atol=2e-5)


def test_packed_segments_equal_separate_calls():
    segment_ids = jnp.asarray([[0, 0, 0, 1, 1, 1, 1]])
    positions = jnp.asarray([[0, 1, 2, 0, 1, 2, 3]])
    packed = LAYER.apply(VARIABLES, X[:1], Span(segment_ids=segment_ids, positions=positions))
    for part in (slice(0, 3), slice(3, 7)):
        alone = LAYER.apply(VARIABLES, X[:1, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=2e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_what_does_not_fit_the_cache_is_dropped(axis):
    cache, new = jnp.zeros((2, 4, 1)), jnp.ones((2, 3, 1))
    cache, new = (jnp.moveaxis(a, 1, axis) for a in (cache, new))
    got = write(cache, new, jnp.asarray([0, 3]), axis)
    np.testing.assert_array_equal(jnp.ravel(got), [1, 1, 1, 0, 0, 0, 0, 1])
    one = jax.lax.slice_in_dim(new, 0, 1, axis=axis)
    got = write(cache, one, jnp.asarray([2, 4]), axis)
    np.testing.assert_array_equal(jnp.ravel(got), [0, 0, 1, 0, 0, 0, 0, 0])
    for position, wanted in ((2, [0, 0, 1, 0]), (4, [0, 0, 0, 0])):
        got = write(cache[:1], one[:1], jnp.asarray([position]), axis)
        np.testing.assert_array_equal(jnp.ravel(got), wanted)
