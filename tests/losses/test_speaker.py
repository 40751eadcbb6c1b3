"""The margin between speakers, and the rate of errors: closed forms and masks."""

import functools

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.losses import speaker
from cosyjax.losses.speaker import NUM_BINS, equal_error_rate

PROTOTYPES = np.eye(2, dtype=np.float32)
EAST, NORTH = [2.0, 0.0], [0.0, 0.5]
VALID = np.array([True, True])
SPEAKERS = np.array([0, 1])


@functools.partial(jax.jit, static_argnames=("margin", "scale"))
def gradient_of(embedding, prototypes, speakers, valid, **options):
    """((loss, metrics), gradient): one program for most tests."""
    loss = functools.partial(speaker.margin_loss, **options)
    return jax.value_and_grad(loss, has_aux=True)(embedding, prototypes, speakers, valid)


def loss_of(embedding, speakers=SPEAKERS, valid=VALID, margin=0.0):
    embedding = np.asarray(embedding, np.float32)
    found = gradient_of(embedding, PROTOTYPES, speakers, valid, margin=margin, scale=1.0)
    return jax.device_get(found[0])


def test_without_a_margin_it_is_the_softmax_of_cosines():
    loss, metrics = loss_of([EAST, NORTH])
    np.testing.assert_allclose(loss, np.log(1 + np.exp(-1.0)), rtol=1e-5)
    assert float(metrics["accuracy"]) == 1.0 and int(metrics["num_targets"]) == 2


@pytest.mark.parametrize("angle, margin", [(0.5, 0.2), (1.2, 0.3), (2.0, 0.4)])
def test_the_margin_adds_to_the_angle(angle, margin):
    turned = [np.cos(angle), np.sin(angle)]
    loss, _ = loss_of([turned, turned], np.array([0, 0]), margin=margin)
    wanted = np.logaddexp(np.cos(angle + margin), np.sin(angle)) - np.cos(angle + margin)
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_the_loss_grows_with_the_angle_up_to_the_opposite_direction():
    angles = np.linspace(0.0, np.pi, 9, dtype=np.float32)
    turned = np.stack([np.cos(angles), 0.0 * angles, np.sin(angles)], axis=-1)
    prototypes, first = np.eye(3, dtype=np.float32)[:, :2], np.array([0])
    options = {"margin": 0.5, "scale": 1.0}
    loss = lambda x: speaker.margin_loss(x[None], prototypes, first, first == 0, **options)[0]
    assert np.all(np.diff(jax.jit(jax.vmap(loss))(turned)) > 0)


def test_a_masked_row_moves_neither_loss_nor_gradient_and_an_unmasked_one_does():
    def run(*rows):
        rest = (PROTOTYPES, SPEAKERS, np.array([True, False]))
        (loss, _), gradient = gradient_of(np.float32(rows), *rest, margin=0.0, scale=1.0)
        return float(loss), np.asarray(gradient)

    wanted, got = run(EAST, NORTH), run(EAST, [np.nan, 1.0])
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert run(NORTH, NORTH)[0] != wanted[0]


def test_a_speaker_outside_the_table_is_no_number():
    assert np.isnan(loss_of([EAST, NORTH], np.array([0, 2]))[0])


def test_a_margin_of_a_right_angle_is_refused():
    with pytest.raises(InputError, match="margin"):
        loss_of([EAST, NORTH], margin=2.0)


def test_pairs_are_counted_once_and_by_speaker():
    x = np.float32([EAST, EAST, NORTH, [np.nan, 0.0]])
    valid = np.array([True, True, True, False])
    found = jax.jit(speaker.count_scores)(x, np.array([0, 0, 1, 1]), valid)
    same, different = jax.device_get(found)
    assert same[NUM_BINS - 1] == np.sum(same) == 1
    assert different[NUM_BINS // 2] == np.sum(different) == 2


def test_the_equal_error_rate_of_overlapping_scores():
    same, different = np.zeros(NUM_BINS, int), np.zeros(NUM_BINS, int)
    same[[50, 150]] = [1, 3]
    different[[40, 160]] = [3, 1]
    assert equal_error_rate(same, different) == 0.25
    assert equal_error_rate(different, same) == 0.75
    assert np.isnan(equal_error_rate(same, 0 * same))
