"""Recognition loss and codebook metrics: closed forms and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.losses.tokenizer import (
    asr_loss,
    balance_loss,
    codebook_metrics,
    commitment_loss,
    count_tokens,
)

TEXT = jnp.asarray([[1, 2], [3, 0]])
LENGTHS = jnp.asarray([2, 1])
END = 4


def test_flat_logits_cost_log_of_the_vocabulary():
    loss, metrics = asr_loss(jnp.zeros((2, 3, 5)), TEXT, LENGTHS, END)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)
    assert int(metrics["num_targets"]) == 5


def test_certain_and_right_costs_nothing():
    targets = jnp.asarray([[1, 2, END], [3, END, 0]])
    loss, metrics = asr_loss(100.0 * jax.nn.one_hot(targets, 5), TEXT, LENGTHS, END)
    assert float(loss) == 0.0 and float(metrics["accuracy"]) == 1.0


def test_a_masked_target_does_not_count_and_an_unmasked_one_does():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    wanted = asr_loss(logits, TEXT, LENGTHS, END)[0]
    masked = asr_loss(logits.at[1, 2].set(jnp.nan), TEXT.at[1, 1].set(3), LENGTHS, END)[0]
    np.testing.assert_array_equal(masked, wanted)
    assert float(asr_loss(logits, TEXT.at[1, 0].set(1), LENGTHS, END)[0]) != float(wanted)


def test_the_end_of_each_row_is_a_target():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    wanted = asr_loss(logits, TEXT, LENGTHS, END)[0]
    assert float(asr_loss(logits.at[1, 1].add(jnp.arange(5.0)), TEXT, LENGTHS, END)[0]) != wanted


def test_logits_of_another_length_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        asr_loss(jnp.zeros((2, 2, 5)), TEXT, LENGTHS, END)


def test_an_even_codebook_has_full_perplexity():
    metrics = codebook_metrics(jnp.full((81,), 3))
    np.testing.assert_allclose(metrics["perplexity"], 81, rtol=1e-5)
    assert float(metrics["used"]) == 1.0


def test_one_token_has_perplexity_one():
    metrics = codebook_metrics(jnp.zeros((4,), jnp.int32).at[2].set(9))
    assert float(metrics["perplexity"]) == 1.0 and float(metrics["used"]) == 0.25


def test_padding_is_not_counted():
    mask = jnp.asarray([[True, True, False]])
    np.testing.assert_array_equal(count_tokens(jnp.asarray([[2, 0, 2]]), mask, 4), [1, 0, 1, 0])


def test_the_table_is_pulled_to_the_features_and_the_features_a_quarter_as_much():
    features, chosen = jnp.asarray([[[1.0, 2.0]]]), jnp.asarray([[[0.0, 2.0]]])
    mask = jnp.ones((1, 1), bool)
    loss = lambda x, y: commitment_loss(x, y, mask)
    np.testing.assert_allclose(loss(features, chosen), 1.25 / 2)
    pull, push = jax.grad(loss, (0, 1))(features, chosen)
    np.testing.assert_allclose(pull, [[[0.25, 0.0]]])
    np.testing.assert_allclose(push, [[[-1.0, 0.0]]])


def test_masked_entries_do_not_commit():
    x, mask = jax.random.normal(jax.random.key(0), (1, 3, 2)), jnp.asarray([[True, True, False]])
    wanted = commitment_loss(x, 0.5 * x, mask)
    np.testing.assert_array_equal(commitment_loss(x.at[0, 2].set(jnp.nan), 0.5 * x, mask), wanted)


EVEN = jnp.asarray([[[a, b] for a in (-0.9, 0.0, 0.9) for b in (-0.9, 0.0, 0.9)]])


def test_even_and_independent_levels_are_balanced():
    assert abs(float(balance_loss(EVEN, jnp.ones((1, 9), bool), 3))) < 1e-3


def test_dimensions_that_say_the_same_are_half_balanced():
    same = jnp.stack([EVEN[..., 0]] * 2, axis=-1)
    np.testing.assert_allclose(balance_loss(same, jnp.ones((1, 9), bool), 3), 0.5, atol=1e-3)


def test_a_dead_dimension_is_pushed_apart():
    dead = EVEN.at[..., 1].set(0.1 * EVEN[..., 1])
    mask = jnp.ones((1, 9), bool)
    assert float(balance_loss(dead, mask, 3)) > 0.4
    push = -jax.grad(balance_loss)(dead, mask, 3)[0, :, 1]
    assert push[2] > 0 > push[0]


def test_padding_is_not_balanced():
    mask = (jnp.arange(9) < 6)[None]
    wanted = jax.value_and_grad(balance_loss)(EVEN, mask, 3)
    got = jax.value_and_grad(balance_loss)(EVEN.at[:, 6:].set(jnp.nan), mask, 3)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_one_dimension_has_nothing_to_be_independent_of():
    with pytest.raises(InputError, match="at least 2"):
        balance_loss(EVEN[..., :1], jnp.ones((1, 9), bool), 3)
