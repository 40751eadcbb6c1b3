"""Direct preference optimization in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.losses.dpo import dpo, sequence_logps
from cosyjax.ops.interleave import IGNORED

LOGITS = jax.random.normal(jax.random.key(0), (2, 3, 5))
TARGETS = jnp.asarray([[1, IGNORED, 4], [IGNORED, 0, IGNORED]])


def test_equal_policies_cost_log_two():
    pair = jnp.asarray([-1.0, -2.0]), jnp.asarray([-3.0, -0.5])
    found = dpo(pair, pair, beta=0.3)
    np.testing.assert_allclose(found.loss, np.log(2.0), rtol=1e-6)
    np.testing.assert_array_equal(found.chosen_reward, [0.0, 0.0])


def test_raising_the_chosen_sequence_lowers_the_loss():
    chosen, rejected = jnp.asarray([-1.0]), jnp.asarray([-1.0])
    grad = jax.grad(lambda c, r: dpo((c, r), (chosen, rejected), 0.5).loss, (0, 1))
    up, down = grad(chosen, rejected)
    np.testing.assert_allclose([up[0], down[0]], [-0.25, 0.25], rtol=1e-6)


def test_log_probabilities_are_averaged_over_valid_positions():
    logps = jax.nn.log_softmax(LOGITS)
    wanted = [(logps[0, 0, 1] + logps[0, 2, 4]) / 2, logps[1, 1, 0]]
    np.testing.assert_allclose(sequence_logps(LOGITS, TARGETS), wanted, rtol=1e-6)


def test_the_official_mask_averages_class_zero_over_the_other_positions():
    logps = jax.nn.log_softmax(LOGITS)
    wanted = [logps[0, 1, 0], (logps[1, 0, 0] + logps[1, 2, 0]) / 2]
    got = sequence_logps(LOGITS, TARGETS, over_ignored=True)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
