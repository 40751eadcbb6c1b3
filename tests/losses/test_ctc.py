"""Connectionist temporal classification: against every path, and what is left out."""

import itertools

import jax
import numpy as np

from cosyjax.losses.tokenizer import ctc_loss

BLANK, CLASSES = 3, 4
DRAWN = np.random.default_rng(0)
LOGITS = DRAWN.standard_normal((3, 5, CLASSES)).astype(np.float32)
MASK = np.arange(5) < np.array([5, 4, 2])[:, None]
TEXT = np.array([[0, 0, 2], [1, 2, 0], [1, 1, 0]], np.int32)
LENGTHS = np.array([3, 2, 2], np.int32)  # the last does not fit: a repetition needs three entries
LOSS = jax.jit(ctc_loss, static_argnums=4)


def collapse(path):
    """What a path says: repetitions once, blanks not at all."""
    return [label for label, _ in itertools.groupby(path) if label != BLANK]


def cost_of_every_path(row):
    count, text = int(MASK[row].sum()), TEXT[row, : LENGTHS[row]].tolist()
    scores = LOGITS[row, :count].astype(np.float64)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    paths = itertools.product(range(CLASSES), repeat=count)
    said = [path for path in paths if collapse(path) == text]
    return -np.log(sum(np.exp(sum(log_probs[t, label] for t, label in enumerate(p))) for p in said))


def test_the_text_has_the_probability_of_all_its_paths():
    loss, fits = LOSS(LOGITS, MASK, TEXT, LENGTHS, BLANK)
    wanted = (cost_of_every_path(0) + cost_of_every_path(1)) / (LENGTHS[0] + LENGTHS[1])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert fits.tolist() == [True, True, False]


def test_padding_and_rows_that_do_not_fit_move_neither_loss_nor_gradient():
    grad = jax.jit(jax.value_and_grad(lambda x, t: ctc_loss(x, MASK, t, LENGTHS, BLANK)[0]))
    poisoned, other = LOGITS.copy(), TEXT.copy()
    poisoned[~MASK] = np.nan
    other[1, 2] = 2
    (wanted, slope), (got, poisoned_slope) = grad(LOGITS, TEXT), grad(poisoned, other)
    assert float(got) == float(wanted)
    np.testing.assert_array_equal(poisoned_slope, slope)
    assert not np.any(slope[2]) and not np.any(np.asarray(slope)[~MASK])
    assert np.all(np.any(np.asarray(slope)[:2] != 0, axis=(1, 2)))


def test_a_batch_without_text_costs_nothing():
    loss, fits = LOSS(LOGITS, MASK, TEXT, np.array([0, -1, 0], np.int32), BLANK)
    assert float(loss) == 0.0 and not np.any(fits)
