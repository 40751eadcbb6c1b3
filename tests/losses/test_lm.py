"""Cross entropy of the language model in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.losses.lm import cross_entropy
from cosyjax.ops.interleave import IGNORED

LOGITS = jax.random.normal(jax.random.key(0), (2, 3, 5))
TARGETS = jnp.asarray([[1, IGNORED, 4], [IGNORED, 0, IGNORED]])


def test_it_is_the_mean_negative_log_probability_of_the_targets():
    logps = jax.nn.log_softmax(LOGITS)
    wanted = -(logps[0, 0, 1] + logps[0, 2, 4] + logps[1, 1, 0]) / 3
    found = cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(found.mean, wanted, rtol=1e-6)
    assert float(found.num_targets) == 3


def test_smoothing_spreads_the_target_over_the_other_classes():
    smoothed = jnp.full((5,), 0.2 / 4).at[2].set(0.8)
    logits = jnp.log(smoothed)[None, None]
    targets = jnp.asarray([[2]])
    # The prediction that equals the smoothed target costs nothing; any other costs.
    np.testing.assert_allclose(cross_entropy(logits, targets, 0.2).total, 0.0, atol=1e-6)
    divergence = jnp.sum(smoothed * (jnp.log(smoothed) - jnp.log(0.2)))
    np.testing.assert_allclose(cross_entropy(0 * logits, targets, 0.2).total, divergence, rtol=1e-5)


def test_accuracy_counts_only_positions_with_a_target():
    logits = 9.0 * jax.nn.one_hot(jnp.asarray([[1, 1, 0], [3, 0, 0]]), 5)
    np.testing.assert_allclose(cross_entropy(logits, TARGETS).accuracy, 2 / 3)


def test_a_batch_without_targets_costs_nothing():
    found = cross_entropy(LOGITS, jnp.full_like(TARGETS, IGNORED))
    assert float(found.mean) == 0.0 and float(found.accuracy) == 0.0
