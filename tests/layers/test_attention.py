"""Grouped-query attention: contracts, and a dense softmax written out."""

import jax
import numpy as np
import pytest

from cosyjax.layers.attention import GroupedQueryAttention, Span, write
from tests import contracts
from tests.compiled import Compiled
from tests.drawn import drawn, normal

MODULE = GroupedQueryAttention(4, 2, 4, features=12, rope_theta=100.0)
LAYER = Compiled(MODULE)
X = normal(2, 7, 12)
VARIABLES = drawn(MODULE.init, X)


def test_it_streams_with_room_to_spare_in_the_cache():
    contracts.assert_streams(LAYER, VARIABLES, X, [(1, 1, 1, 4)], init_args=(9,))


def test_it_is_causal():
    contracts.assert_causal(lambda x: MODULE.apply(VARIABLES, x), X[:1], last_seen=lambda t: t)


def test_padding_is_inert():
    run = lambda x, lengths: LAYER.apply(VARIABLES, x, Span(lengths=lengths))
    contracts.assert_padding_inert(run, X, [4, 7])


def test_a_padded_step_leaves_no_trace_in_the_cache():
    state = LAYER.apply(VARIABLES, 2, 9, method="init_state")
    poisoned = X[:, :4].copy()
    poisoned[0, 2:] = np.nan
    lengths = np.array([2, 4])
    _, state = LAYER.apply(VARIABLES, poisoned, state, Span(lengths=lengths), method="step")
    np.testing.assert_array_equal(state.position, lengths)
    y, _ = LAYER.apply(VARIABLES, X[:, 4:5], state, method="step")
    # The layer is causal: what stands behind the last position looked at is not seen.
    left = np.concatenate([X[:1, :2], X[:1, 4:7], X[:1, :2]], axis=1)
    whole = np.asarray(LAYER.apply(VARIABLES, np.concatenate([left, X[1:]])))
    np.testing.assert_allclose(y[:, 0], [whole[0, 2], whole[1, 4]], atol=2e-5)


def test_packed_segments_equal_separate_calls():
    segment_ids = np.array([[0, 0, 0, 1, 1, 1, 1]])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3]])
    span = Span(segment_ids=segment_ids, positions=positions)
    packed = np.asarray(LAYER.apply(VARIABLES, X[:1], span))[0]
    # Two calls in one batch: the layer is causal, so what is behind does not matter.
    alone = np.asarray(LAYER.apply(VARIABLES, np.stack([X[0], np.roll(X[0], -3, axis=0)])))
    np.testing.assert_allclose(packed[:3], alone[0, :3], atol=2e-5)
    np.testing.assert_allclose(packed[3:], alone[1, :4], atol=2e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_what_does_not_fit_the_cache_is_dropped(axis):
    cache, new = np.zeros((2, 4, 1), np.float32), np.ones((2, 3, 1), np.float32)
    cache, new = (np.moveaxis(a, 1, axis) for a in (cache, new))
    put = jax.jit(lambda *args: write(*args, axis).ravel())
    np.testing.assert_array_equal(put(cache, new, np.array([0, 3])), [1, 1, 1, 0, 0, 0, 0, 1])
    one = np.take(new, [0], axis=axis)
    np.testing.assert_array_equal(put(cache, one, np.array([2, 4])), [0, 0, 1, 0, 0, 0, 0, 0])
    for position, wanted in ((2, [0, 0, 1, 0]), (4, [0, 0, 0, 0])):
        got = put(cache[:1], one[:1], np.array([position]))
        np.testing.assert_array_equal(got, wanted)
