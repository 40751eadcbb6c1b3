"""Edits, rates and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from cosyjax.eval.bootstrap import mean_interval, rate_interval
from cosyjax.eval.scores import Errors, cosine, count_errors, error_rate


@pytest.mark.parametrize(
    "wanted, heard, errors",
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b c", "a x c", (1, 0, 0, 3)),
        ("a b c", "b c", (0, 1, 0, 3)),
        ("a b c", "a b b c", (0, 0, 1, 3)),
        ("a b c", "", (0, 3, 0, 3)),
        ("", "a b", (0, 0, 2, 0)),
        ("the cat sat down", "a cat down here", (1, 1, 1, 4)),
    ],
)
def test_edits_are_those_of_a_shortest_alignment(wanted, heard, errors) -> None:
    assert count_errors(wanted.split(), heard.split()) == Errors(*errors)


def test_edits_of_random_texts_are_symmetric_and_obey_the_triangle() -> None:
    stream = np.random.default_rng(0)
    a, b, c = ([str(x) for x in stream.integers(0, 4, 12)] for _ in range(3))
    there, back = count_errors(a, b), count_errors(b, a)
    assert there.num_edits == back.num_edits and there.insertions == back.deletions
    assert count_errors(a, c).num_edits <= there.num_edits + count_errors(b, c).num_edits


def test_a_long_utterance_weighs_by_its_words() -> None:
    assert error_rate([Errors(1, 0, 0, 1), Errors(0, 0, 0, 9)]) == 0.1
    assert error_rate([]) is None


def test_an_interval_holds_the_rate_and_depends_on_the_seed_alone() -> None:
    stream = np.random.default_rng(1)
    words = stream.integers(5, 15, 200)
    edits = stream.binomial(words, 0.1)
    low, high = rate_interval(edits, words, 0)
    assert low < edits.sum() / words.sum() < high
    assert rate_interval(edits, words, 0) == (low, high) != rate_interval(edits, words, 1)


def test_an_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(2).standard_normal(400)
    low, high = mean_interval(values.tolist(), 0)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_one_utterance_has_no_interval() -> None:
    assert rate_interval([1.0], [5.0], 0) is None
    assert rate_interval([0.0, 0.0], [0.0, 0.0], 0) is None


def test_an_embedding_without_direction_is_like_nothing() -> None:
    assert cosine(np.array([3.0, 4.0]), np.array([6.0, 8.0])) == pytest.approx(1.0)
    assert cosine(np.zeros(2), np.ones(2)) == 0.0
