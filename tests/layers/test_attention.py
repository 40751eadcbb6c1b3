"""Grouped-query attention: contracts, and a dense softmax written out."""

import jax
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.errors import InputError
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


PACKED = Span(
    segment_ids=np.array([[0, 0, 0, 1, 1, 1, 1], [2, 2, 2, 2, 2, 3, 3]]),
    positions=np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1]]),
)
BY_KERNEL = GroupedQueryAttention(4, 2, 4, 12, rope_theta=100.0, attention="splash_interpret")


def values_and_gradients(module, span, axes=None):
    """Of a fixed sum, by parameters and input; on a mesh of (data, fsdp, tensor) `axes`."""

    def run(v, x):
        y, pull = jax.vjp(lambda v, x: module.apply(v, x, span), v, x)
        return y, pull(normal(*X.shape, seed=3))

    if axes is None:
        return jax.jit(run)(VARIABLES, X)
    mesh = sharding.make_mesh(*axes)
    given = jax.device_put((VARIABLES, X), sharding.replicated(mesh))
    return jax.jit(sharding.placed(run, mesh, sharding.DEFAULT_RULES))(*given)


def test_the_tpu_kernel_gives_the_values_and_gradients_of_the_reference():
    got, wanted = (values_and_gradients(module, PACKED) for module in (BY_KERNEL, MODULE))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


# Two key-value heads over two devices, and over four, where each needs one of them.
@pytest.mark.parametrize("axes", [(1, 2, 2), (2, 1, 4)])
def test_devices_that_hold_some_heads_give_the_same(axes):
    wanted = values_and_gradients(MODULE, PACKED)
    for a, b in zip(
        jax.tree.leaves(values_and_gradients(BY_KERNEL, PACKED, axes)),
        jax.tree.leaves(wanted),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "rules, message",
    [
        ((("heads", "tensor"),), "num_heads=4.*8 devices.*'tensor'.*may have 1, 2, 4"),
        ((("kv_heads", "tensor"),), "num_kv_heads=2.*8 devices.*may have 1, 2"),
    ],
)
def test_a_mesh_that_would_cut_a_head_in_two_is_refused(rules, message):
    run = sharding.placed(lambda x: MODULE.apply(VARIABLES, x), sharding.make_mesh(1, 1, 8), rules)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(run, X)


@pytest.mark.parametrize("kernel, machine", [("splash", "TPU"), ("cudnn", "NVIDIA GPU")])
def test_a_kernel_of_another_machine_is_refused_before_anything_runs(kernel, machine):
    with pytest.raises(InputError, match=f"{machine}.*CPU; use attention='whole'"):
        jax.eval_shape(lambda x: MODULE.clone(attention=kernel).apply(VARIABLES, x), X)


@pytest.mark.parametrize("module", [MODULE, BY_KERNEL])
def test_a_cache_made_by_a_call_without_one_is_that_of_a_step(module):
    lengths = np.array([4, 7])
    span = Span(lengths=lengths, keep=True)
    y, cache = jax.jit(lambda x: module.apply(VARIABLES, x, None, span, method="advance"))(X)
    state = LAYER.apply(VARIABLES, 2, 7, method="init_state")
    wanted, state = LAYER.apply(VARIABLES, X, state, Span(lengths=lengths), method="step")
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(y[row, :length], wanted[row, :length], atol=2e-5)
    for a, b in zip(jax.tree.leaves(cache), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


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
