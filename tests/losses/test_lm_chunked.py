"""The loss by chunks of positions is the loss of all logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.losses.lm import cross_entropy
from cosyjax.losses.lm_chunked import Head, chunked_cross_entropy
from cosyjax.ops.interleave import IGNORED
from tests.drawn import normal

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


ROWS, SIZE, WIDTH, CLASSES = 8, 6, 4, 12
WIDE = normal(ROWS, SIZE, WIDTH)
LAYER = Head(normal(WIDTH, CLASSES, seed=1), normal(CLASSES, seed=2))
# Rows of one device have more targets than those of another, and one has none.
WANTED = np.random.default_rng(0).integers(0, CLASSES, (ROWS, SIZE)).astype(np.int32)
WANTED[:, 5], WANTED[0], WANTED[3, 2:], WANTED[7, ::2] = IGNORED, IGNORED, IGNORED, IGNORED


def on_mesh(axes, rules=sharding.DEFAULT_RULES):
    """Loss, correct and gradients, and the program's text; the head lies as the rules say."""
    mesh = sharding.make_mesh(*axes)

    def run(hidden, head, targets):
        loss = lambda *x: chunked_cross_entropy(*x, targets, smoothing=0.1, chunk=4)
        whole = lambda *x: (3.0 * loss(*x).mean, loss(*x).accuracy)
        return jax.value_and_grad(whole, (0, 1), has_aux=True)(hidden, head)

    boxes = Head(
        *(nn.LogicallyPartitioned(x, n) for x, n in zip(LAYER, (("embed", "vocab"), ("vocab",))))
    )
    head = jax.device_put(LAYER, sharding.param_shardings(boxes, rules, mesh))
    rows = jax.device_put((WIDE, WANTED), sharding.batch_sharding(mesh))
    program = jax.jit(sharding.placed(run, mesh, rules)).lower(rows[0], head, rows[1]).compile()
    return program(rows[0], head, rows[1]), program.as_text()


def on_one_device():
    def whole(hidden, head):
        found = cross_entropy(hidden @ head.kernel + head.bias, WANTED, 0.1)
        return 3.0 * found.mean, found.accuracy

    return jax.jit(jax.value_and_grad(whole, (0, 1), has_aux=True))(WIDE, LAYER)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_devices_go_through_their_own_rows_and_classes(axes):
    got, text = on_mesh(axes)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(on_one_device()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert f"f32[4,{CLASSES // axes[2]}]" in text  # the logits of a chunk, and none of more
    if axes[2] > 1:
        assert f"f32[4,{CLASSES}]" not in text


def test_classes_that_lie_where_the_rows_lie_are_gathered():
    got, _ = on_mesh((2, 4, 1), (("vocab", "fsdp"),))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(on_one_device()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
