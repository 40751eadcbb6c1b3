"""Samplers: candidate sets, the repetition rule, and frequencies of draws."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import sampling

NAMES = ("top_p", "top_k", "tau", "remove_repeated")
draw_ras = jax.jit(sampling.repetition_aware, static_argnames=NAMES)
PROBS = jnp.asarray([[0.1, 0.5, 0.05, 0.29, 0.06]])


def _keys(num):
    return jax.random.split(jax.random.key(0), num)


def test_the_id_that_crosses_top_p_belongs_to_the_nucleus():
    found = sampling.nucleus(jnp.log(PROBS), top_p=0.8, top_k=4)
    np.testing.assert_array_equal(found.ids, [[1, 3, 0, -1]])
    np.testing.assert_allclose(found.probs, [[0.5, 0.29, 0.1, 0.0]], atol=1e-6)


def test_top_k_bounds_the_nucleus_and_a_certain_id_is_alone():
    assert np.asarray(sampling.nucleus(jnp.log(PROBS), 0.99, 2).ids).tolist() == [[1, 3]]
    certain = jnp.asarray([[0.0, -jnp.inf, -jnp.inf]])
    assert np.asarray(sampling.nucleus(certain, 0.8, 3).ids).tolist() == [[0, -1, -1]]


def test_nucleus_draws_follow_the_probabilities():
    num = 4000
    found = sampling.nucleus(jnp.repeat(jnp.log(PROBS), num, 0), 0.8, 25)
    ids = np.asarray(jax.jit(sampling.draw_nucleus)(found, _keys(num)))
    share = np.bincount(ids, minlength=5) / num
    np.testing.assert_allclose(share, np.asarray([0.1, 0.5, 0, 0.29, 0]) / 0.89, atol=0.03)


def test_a_repeated_id_is_redrawn_from_all_others():
    num = 2000
    scores = jnp.repeat(jnp.log(jnp.asarray([[0.9, 0.06, 0.04]])), num, 0)
    recent = jnp.zeros((num, 10), jnp.int32).at[:, 1:].set(-1)
    draw = lambda **k: np.asarray(draw_ras(scores, recent, _keys(num), **k))
    share = np.bincount(draw(), minlength=3) / num
    np.testing.assert_allclose(share, [0.0, 0.6, 0.4], atol=0.05)
    share = np.bincount(draw(remove_repeated=False), minlength=3) / num
    np.testing.assert_allclose(share, [0.9, 0.06, 0.04], atol=0.05)


def test_an_id_outside_the_window_is_not_repeated():
    scores = jnp.log(jnp.asarray([[0.9, 0.06, 0.04]]))
    recent = jnp.full((1, 10), 2, jnp.int32)
    assert int(draw_ras(scores, recent, _keys(1))[0]) == 0


def test_a_row_draws_the_same_alone_and_in_a_batch():
    scores = jax.random.normal(jax.random.key(1), (3, 40))
    recent = jnp.argsort(-scores, axis=1)[:, :2]  # rows that need the second draw
    together = draw_ras(scores, recent, _keys(3))
    for row in range(3):
        part = slice(row, row + 1)
        alone = draw_ras(scores[part], recent[part], _keys(3)[part])
        assert int(alone[0]) == int(together[row])
