"""The margin between speakers, and the rate of errors: closed forms and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.losses.speaker import NUM_BINS, count_scores, equal_error_rate, margin_loss

PROTOTYPES = jnp.eye(2)
EAST, NORTH = [2.0, 0.0], [0.0, 0.5]
VALID = jnp.asarray([True, True])
SPEAKERS = jnp.asarray([0, 1])


def loss_of(embedding, speakers=SPEAKERS, valid=VALID, **options):
    options = {"margin": 0.0, "scale": 1.0, **options}
    return margin_loss(jnp.asarray(embedding), PROTOTYPES, speakers, valid, **options)


def test_without_a_margin_it_is_the_softmax_of_cosines():
    loss, metrics = loss_of([EAST, NORTH])
    np.testing.assert_allclose(loss, np.log(1 + np.exp(-1.0)), rtol=1e-5)
    assert float(metrics["accuracy"]) == 1.0 and int(metrics["num_targets"]) == 2


@pytest.mark.parametrize("angle, margin", [(0.5, 0.2), (1.2, 0.3), (2.0, 0.4)])
def test_the_margin_adds_to_the_angle(angle, margin):
    turned = [np.cos(angle), np.sin(angle)]
    loss, _ = loss_of([turned, turned], jnp.asarray([0, 0]), margin=margin)
    wanted = -jax.nn.log_softmax(jnp.asarray([np.cos(angle + margin), np.sin(angle)]))[0]
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_the_loss_grows_with_the_angle_up_to_the_opposite_direction():
    angles = jnp.linspace(0.0, np.pi, 9)
    turned = jnp.stack([jnp.cos(angles), 0.0 * angles, jnp.sin(angles)], axis=-1)
    prototypes, valid = jnp.eye(3)[:, :2], jnp.ones(1, bool)
    loss = lambda x: margin_loss(
        x[None], prototypes, jnp.zeros(1, int), valid, margin=0.5, scale=1.0
    )[0]
    assert np.all(np.diff(jax.vmap(loss)(turned)) > 0)


def test_a_masked_row_moves_neither_loss_nor_gradient_and_an_unmasked_one_does():
    valid = jnp.asarray([True, False])
    loss = jax.value_and_grad(lambda x: loss_of(x, valid=valid)[0])
    wanted, got = loss(jnp.asarray([EAST, NORTH])), loss(jnp.asarray([EAST, [jnp.nan, 1.0]]))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert float(loss(jnp.asarray([NORTH, NORTH]))[0]) != float(wanted[0])


def test_a_speaker_outside_the_table_is_no_number():
    assert np.isnan(loss_of([EAST, NORTH], jnp.asarray([0, 2]))[0])


def test_a_margin_of_a_right_angle_is_refused():
    with pytest.raises(InputError, match="margin"):
        loss_of([EAST, NORTH], margin=2.0)


def test_pairs_are_counted_once_and_by_speaker():
    x = jnp.asarray([EAST, EAST, NORTH, [jnp.nan, 0.0]])
    valid = jnp.asarray([True, True, True, False])
    same, different = count_scores(x, jnp.asarray([0, 0, 1, 1]), valid)
    assert int(same[NUM_BINS - 1]) == int(jnp.sum(same)) == 1
    assert int(different[NUM_BINS // 2]) == int(jnp.sum(different)) == 2


def test_the_equal_error_rate_of_overlapping_scores():
    same, different = np.zeros(NUM_BINS, int), np.zeros(NUM_BINS, int)
    same[[50, 150]] = [1, 3]
    different[[40, 160]] = [3, 1]
    assert equal_error_rate(same, different) == 0.25
    assert equal_error_rate(different, same) == 0.75
    assert np.isnan(equal_error_rate(same, 0 * same))
