"""Recognition loss and codebook metrics: closed forms and masks."""

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.losses import tokenizer
from tests.drawn import normal

asr_loss = jax.jit(tokenizer.asr_loss, static_argnums=3)
balance_loss = jax.jit(jax.value_and_grad(tokenizer.balance_loss), static_argnums=2)
codebook_metrics = jax.jit(tokenizer.codebook_metrics)
commitment_loss = jax.jit(jax.value_and_grad(tokenizer.commitment_loss, (0, 1)))
count_tokens = jax.jit(tokenizer.count_tokens, static_argnums=2)

TEXT = np.array([[1, 2], [3, 0]])
LENGTHS = np.array([2, 1])
END = 4
NAN = np.float32(np.nan)


def changed(x, index, value):
    """A copy of `x` with one part replaced."""
    x = x.copy()
    x[index] = value
    return x


def test_flat_logits_cost_log_of_the_vocabulary():
    loss, metrics = asr_loss(np.zeros((2, 3, 5), np.float32), TEXT, LENGTHS, END)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)
    assert int(metrics["num_targets"]) == 5


def test_certain_and_right_costs_nothing():
    targets = np.array([[1, 2, END], [3, END, 0]])
    loss, metrics = asr_loss(100 * np.eye(5, dtype=np.float32)[targets], TEXT, LENGTHS, END)
    assert float(loss) == 0.0 and float(metrics["accuracy"]) == 1.0


def test_a_masked_target_does_not_count_and_an_unmasked_one_does():
    loss = lambda logits, text: float(asr_loss(logits, text, LENGTHS, END)[0])
    logits = normal(2, 3, 5)
    wanted = loss(logits, TEXT)
    assert loss(changed(logits, (1, 2), NAN), changed(TEXT, (1, 1), 3)) == wanted
    assert loss(logits, changed(TEXT, (1, 0), 1)) != wanted


def test_the_end_of_each_row_is_a_target():
    logits = normal(2, 3, 5)
    other = changed(logits, (1, 1), logits[1, 1] + np.arange(5.0, dtype=np.float32))
    one, two = (float(asr_loss(x, TEXT, LENGTHS, END)[0]) for x in (logits, other))
    assert one != two


def test_logits_of_another_length_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        asr_loss(np.zeros((2, 2, 5), np.float32), TEXT, LENGTHS, END)


def test_an_even_codebook_has_full_perplexity():
    metrics = codebook_metrics(np.full(81, 3))
    np.testing.assert_allclose(metrics["perplexity"], 81, rtol=1e-5)
    assert float(metrics["used"]) == 1.0


def test_one_token_has_perplexity_one():
    metrics = codebook_metrics(np.array([0, 0, 9, 0]))
    assert float(metrics["perplexity"]) == 1.0 and float(metrics["used"]) == 0.25


def test_padding_is_not_counted():
    mask = np.array([[True, True, False]])
    np.testing.assert_array_equal(count_tokens(np.array([[2, 0, 2]]), mask, 4), [1, 0, 1, 0])


def test_the_table_is_pulled_to_the_features_and_the_features_a_quarter_as_much():
    features, chosen = np.array([[[1.0, 2.0]]]), np.array([[[0.0, 2.0]]])
    loss, (pull, push) = commitment_loss(features, chosen, np.ones((1, 1), bool))
    np.testing.assert_allclose(loss, 1.25 / 2)
    np.testing.assert_allclose(pull, [[[0.25, 0.0]]])
    np.testing.assert_allclose(push, [[[-1.0, 0.0]]])


def test_masked_entries_do_not_commit():
    x, mask = normal(1, 3, 2), np.array([[True, True, False]])
    wanted = commitment_loss(x, x / 2, mask)[0]
    got = commitment_loss(changed(x, (0, 2), NAN), x / 2, mask)[0]
    np.testing.assert_array_equal(got, wanted)


EVEN = np.array([[[a, b] for a in (-0.9, 0.0, 0.9) for b in (-0.9, 0.0, 0.9)]], np.float32)
WHOLE = np.ones((1, 9), bool)


def test_even_and_independent_levels_are_balanced():
    assert abs(float(balance_loss(EVEN, WHOLE, 3)[0])) < 1e-3


def test_dimensions_that_say_the_same_are_half_balanced():
    same = np.stack([EVEN[..., 0]] * 2, axis=-1)
    np.testing.assert_allclose(balance_loss(same, WHOLE, 3)[0], 0.5, atol=1e-3)


def test_a_dead_dimension_is_pushed_apart():
    loss, gradient = balance_loss(EVEN * np.array([1.0, 0.1], np.float32), WHOLE, 3)
    assert float(loss) > 0.4
    push = -np.asarray(gradient)[0, :, 1]
    assert push[2] > 0 > push[0]


def test_padding_is_not_balanced():
    mask = (np.arange(9) < 6)[None]
    wanted = balance_loss(EVEN, mask, 3)
    got = balance_loss(changed(EVEN, (0, slice(6, None)), NAN), mask, 3)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    alone, _ = balance_loss(EVEN[:, :6], WHOLE[:, :6], 3)
    np.testing.assert_allclose(got[0], alone, rtol=1e-5)


def test_one_dimension_has_nothing_to_be_independent_of():
    with pytest.raises(InputError, match="at least 2"):
        balance_loss(EVEN[..., :1], WHOLE, 3)


def test_drawn_entries_are_valid_ones():
    x = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    mask = np.asarray([[True, False, False], [True, True, False]])
    drawn = tokenizer.draw_entries(jax.random.key(0), x, mask, 40)
    assert drawn.shape == (40, 1) and set(np.ravel(drawn).tolist()) == {0.0, 3.0, 4.0}
