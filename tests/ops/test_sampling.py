"""Samplers: candidate sets, the repetition rule, and frequencies of draws."""

import jax
import numpy as np

from cosyjax.ops import sampling
from tests.drawn import normal

NAMES = ("top_p", "top_k", "tau", "remove_repeated")
draw_ras = jax.jit(sampling.repetition_aware, static_argnames=NAMES)
nucleus = jax.jit(sampling.nucleus, static_argnums=(1, 2))
LOGPS = np.log(np.array([[0.1, 0.5, 0.05, 0.29, 0.06]], np.float32))


def _keys(num):
    return jax.random.split(jax.random.key(0), num)


def test_the_id_that_crosses_top_p_belongs_to_the_nucleus():
    found = nucleus(LOGPS, 0.8, 4)
    np.testing.assert_array_equal(found.ids, [[1, 3, 0, -1]])
    np.testing.assert_allclose(found.probs, [[0.5, 0.29, 0.1, 0.0]], atol=1e-6)


def test_top_k_bounds_the_nucleus_and_a_certain_id_is_alone():
    assert np.asarray(nucleus(LOGPS, 0.99, 2).ids).tolist() == [[1, 3]]
    certain = np.array([[0.0, -np.inf, -np.inf]], np.float32)
    assert np.asarray(nucleus(certain, 0.8, 3).ids).tolist() == [[0, -1, -1]]


def test_nucleus_draws_follow_the_probabilities():
    num = 4000
    found = nucleus(np.repeat(LOGPS, num, 0), 0.8, 25)
    ids = np.asarray(jax.jit(sampling.draw_nucleus)(found, _keys(num)))
    share = np.bincount(ids, minlength=5) / num
    np.testing.assert_allclose(share, np.asarray([0.1, 0.5, 0, 0.29, 0]) / 0.89, atol=0.03)


def test_a_repeated_id_is_redrawn_from_all_others():
    num = 2000
    scores = np.repeat(np.log(np.array([[0.9, 0.06, 0.04]], np.float32)), num, 0)
    recent = np.full((num, 10), -1, np.int32)
    recent[:, 0] = 0
    draw = lambda **k: np.asarray(draw_ras(scores, recent, _keys(num), **k))
    share = np.bincount(draw(), minlength=3) / num
    np.testing.assert_allclose(share, [0.0, 0.6, 0.4], atol=0.05)
    share = np.bincount(draw(remove_repeated=False), minlength=3) / num
    np.testing.assert_allclose(share, [0.9, 0.06, 0.04], atol=0.05)


def test_an_id_outside_the_window_is_not_repeated():
    scores = np.log(np.array([[0.9, 0.06, 0.04]], np.float32))
    recent = np.full((1, 10), 2, np.int32)
    assert np.asarray(draw_ras(scores, recent, _keys(1))).tolist() == [0]


def test_a_row_draws_the_same_alone_and_in_a_batch():
    scores, keys = normal(3, 40), _keys(3)
    recent = np.argsort(-scores, axis=1)[:, :2].astype(np.int32)  # rows that draw twice
    together = np.asarray(draw_ras(scores, recent, keys))
    for row in range(3):
        part = slice(row, row + 1)
        alone = np.asarray(draw_ras(scores[part], recent[part], keys[part]))
        assert alone[0] == together[row]
