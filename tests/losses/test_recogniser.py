"""What is reported of a recogniser and of a probe: edits of a greedy decoding, distance of mels."""

import jax
import numpy as np
import pytest

from cosyjax.losses.tokenizer import ctc_edits, mel_error

BLANK = 4
EDITS = jax.jit(ctc_edits, static_argnums=4)


def logits_of(rows):
    """[B, T, 5] of which `rows` are the likeliest classes."""
    return np.eye(5, dtype=np.float32)[np.asarray(rows)]


@pytest.mark.parametrize(
    "said, text, edits",
    [
        ([0, 0, 4, 0, 1, 1], [0, 0, 1], 0),  # repeats join, unless a blank parts them
        ([0, 0, 0, 0, 1, 1], [0, 0, 1], 1),
        ([4, 4, 4, 4, 4, 4], [0, 0, 1], 3),
        ([0, 1, 0, 1, 0, 1], [1, 0, 1], 3),
        ([0, 2, 4, 3, 4, 1], [0, 3, 2], 2),
        ([3, 1, 2, 0, 4, 4], [1, 2, 0], 1),
    ],
)
def test_edits_are_those_between_what_is_said_and_the_text(said, text, edits):
    found = EDITS(
        logits_of([said]), np.ones((1, 6), bool), np.asarray([text]), np.asarray([3]), BLANK
    )
    assert found.tolist() == [edits, 3]


def test_rows_add_up_and_what_is_padded_counts_nothing():
    said = logits_of([[0, 1, 2, 3, 2, 3], [3, 2, 3, 2, 3, 2], [1, 4, 4, 4, 4, 4]])
    said[0, 3:], said[1:2] = np.nan, np.nan
    mask = np.arange(6) < np.asarray([[3], [0], [6]])
    text = np.asarray([[0, 1, 10**6], [0, 0, 0], [-1, 9, 9]])
    assert EDITS(said, mask, text, np.asarray([2, -1, 0]), BLANK).tolist() == [1, 2]


def test_a_distance_of_a_quarter_is_ten_decibels_in_each_valid_frame():
    mel = np.full((2, 5, 3), 0.5, np.float32)
    mel[1, 2:] = np.nan
    predicted = np.full((2, 8, 3), 0.25, np.float32)
    assert mel_error(predicted, mel, np.asarray([5, 2])).tolist() == [70.0, 7.0]
