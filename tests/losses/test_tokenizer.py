"""Recognition loss and codebook metrics: closed forms and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.losses.tokenizer import asr_loss, codebook_metrics, count_tokens

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
