"""The loss by chunks of positions is the loss of all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.losses.lm import cross_entropy
from cosyjax.losses.lm_chunked import Head, chunked_cross_entropy
from cosyjax.ops.interleave import IGNORED

KEYS = jax.random.split(jax.random.key(0), 4)
HIDDEN = jax.random.normal(KEYS[0], (3, 7, 5))
HEAD = Head(jax.random.normal(KEYS[1], (5, 11)), jax.random.normal(KEYS[2], (11,)))
TARGETS = jax.random.randint(KEYS[3], (3, 7), 0, 11).at[:, ::3].set(IGNORED)


def whole(hidden, head, smoothing):
    return cross_entropy(hidden @ head.kernel + head.bias, TARGETS, smoothing)


def chunked(hidden, head, smoothing, chunk, targets=TARGETS):
    return chunked_cross_entropy(hidden, head, targets, smoothing=smoothing, chunk=chunk)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [4, 12, 64])
def test_loss_accuracy_and_gradients_are_those_of_the_whole(smoothing, chunk):
    run = lambda f: jax.jit(jax.value_and_grad(lambda h, w: 3.0 * f(h, w).mean, (0, 1)))
    got = run(lambda h, w: chunked(h, w, smoothing, chunk))(HIDDEN, HEAD)
    wanted = run(lambda h, w: whole(h, w, smoothing))(HIDDEN, HEAD)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    counts = [f.accuracy for f in (chunked(HIDDEN, HEAD, 0.0, chunk), whole(HIDDEN, HEAD, 0.0))]
    assert float(counts[0]) == pytest.approx(float(counts[1]))


def test_positions_without_a_target_are_never_looked_at():
    hidden = jnp.where((TARGETS == IGNORED)[..., None], jnp.nan, HIDDEN)
    loss = lambda hidden: chunked(hidden, HEAD, 0.0, 7).mean  # 14 of 21 positions: two full chunks
    found, slope = jax.jit(jax.value_and_grad(loss))(hidden)
    assert np.isfinite(found) and np.all(np.asarray(slope)[np.asarray(TARGETS == IGNORED)] == 0)


def test_a_batch_without_targets_costs_nothing():
    none = jnp.full_like(TARGETS, IGNORED)
    found, slope = jax.value_and_grad(lambda h: chunked(h, HEAD, 0.0, 4, none).mean)(HIDDEN)
    assert float(found) == 0.0 and not np.any(slope)
