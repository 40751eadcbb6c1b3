"""Sequences of the language model against the layout written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.ops import interleave
from cosyjax.ops.interleave import IGNORED, PADDING, SOS, SPECIAL, SPEECH, TASK, TEXT

CODES = 81
NAMES = ("codebook_size", "ratio", "with_targets")
lay_out = jax.jit(interleave.interleave, static_argnames=NAMES)
EOS, FILL = CODES, CODES + 2


def _by_hand(text, speech, bistream, ratio=(5, 15)):
    """The layout as a plain loop over blocks."""
    n, m = ratio
    ids, kinds, targets = [SOS], [SPECIAL], [IGNORED]
    text, speech = list(text), list(speech)
    while bistream and len(text) >= n:
        ids += text[:n] + speech[:m]
        kinds += [TEXT] * n + [SPEECH] * m
        targets += [IGNORED] * (n - 1) + speech[:m] + [FILL]
        text, speech = text[n:], speech[m:]
    ids += text + [TASK] + speech
    kinds += [TEXT] * len(text) + [SPECIAL] + [SPEECH] * len(speech)
    targets += [IGNORED] * len(text) + speech + [EOS]
    return ids, kinds, targets


def _batch(sizes, seed=0):
    rng = np.random.default_rng(seed)
    num_text, num_speech = np.asarray(sizes).T
    text = rng.integers(0, 100, (len(sizes), num_text.max()), np.int32)
    speech = rng.integers(0, CODES, (len(sizes), num_speech.max()), np.int32)
    return text, num_text.astype(np.int32), speech, num_speech.astype(np.int32)


@pytest.mark.parametrize("ratio", [(5, 15), (2, 3)])
def test_every_row_equals_the_loop_over_blocks(ratio):
    sizes = [(7, 33), (10, 41), (4, 20), (0, 3), (5, 16)]
    text, num_text, speech, num_speech = _batch(sizes)
    bistream = np.asarray([True, True, True, False, False])
    got = lay_out(text, num_text, speech, num_speech, bistream, codebook_size=CODES, ratio=ratio)
    assert got.ids.shape == (5, text.shape[1] + speech.shape[1] + 2)
    for row, (s, t) in enumerate(sizes):
        wanted = _by_hand(text[row, :s], speech[row, :t], bistream[row], ratio)
        length = int(got.lengths[row])
        assert length == len(wanted[0]) == s + t + 2
        for array, expected in zip(got[:3], wanted, strict=True):
            np.testing.assert_array_equal(array[row, :length], expected)
        np.testing.assert_array_equal(got.kinds[row, length:], PADDING)
        np.testing.assert_array_equal(got.targets[row, length:], IGNORED)


def test_a_prompt_has_no_targets_and_may_have_no_speech():
    text = jnp.arange(6, dtype=jnp.int32)[None]
    nothing = jnp.zeros((1, 0), jnp.int32)
    layout = lay_out(
        text, jnp.asarray([6]), nothing, jnp.asarray([0]), codebook_size=CODES, with_targets=False
    )
    np.testing.assert_array_equal(layout.ids[0], [SOS, 0, 1, 2, 3, 4, 5, TASK])
    np.testing.assert_array_equal(layout.targets, jnp.full((1, 8), IGNORED))


def test_a_bistream_prompt_that_ends_inside_a_block_waits_there():
    text, speech = jnp.arange(10, dtype=jnp.int32)[None], jnp.arange(17, dtype=jnp.int32)[None]
    sizes = jnp.asarray([10]), jnp.asarray([17])
    layout = lay_out(text, sizes[0], speech, sizes[1], jnp.asarray([True]), codebook_size=CODES)
    assert int(layout.lengths[0]) == 1 + 5 + 15 + 5 + 2
    np.testing.assert_array_equal(layout.ids[0, 26:28], [15, 16])
    assert np.all(layout.kinds[0, 28:] == PADDING)


def test_bistream_needs_a_low_draw_and_strictly_more_than_three_times_the_speech():
    draws = jnp.asarray([0.49, 0.5, 0.1, 0.1])
    num_text, num_speech = jnp.asarray([10, 10, 10, 10]), jnp.asarray([31, 31, 30, 31])
    got = interleave.choose_bistream(draws, num_text, num_speech)
    np.testing.assert_array_equal(got, [True, False, False, True])


def test_numpy_arrays_give_the_same_layout_without_jax():
    batch = _batch([(7, 33), (10, 41), (4, 20)])
    bistream = np.asarray([True, False, True])
    got = interleave.interleave(*batch, bistream, codebook_size=CODES, xp=np)
    wanted = lay_out(*batch, bistream, codebook_size=CODES)
    for array, expected in zip(got, wanted, strict=True):
        assert isinstance(array, np.ndarray) and array.dtype == np.int32
        np.testing.assert_array_equal(array, expected)
