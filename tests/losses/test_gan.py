"""Closed forms and gradients of the adversarial losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.losses import gan
from cosyjax.models.discriminators import Judgement
from tests.drawn import normal

SAMPLES = 1920
WAV = np.float32(0.2) * normal(2, SAMPLES)
OTHER = np.float32(0.2) * normal(2, SAMPLES, seed=1)
F0 = np.float32([[100.0, 110.0, 0.0, 120.0]] * 2)

relativistic_loss = jax.jit(gan.relativistic_loss, static_argnums=2)
discriminator_loss = jax.jit(gan.discriminator_loss)
generator_loss = jax.jit(gan.generator_loss)
mel_loss = jax.jit(gan.mel_loss, static_argnums=2)
discriminator_turn = jax.jit(gan.discriminator_turn, static_argnums=(0, 3))
generator_turn = jax.jit(gan.generator_turn, static_argnums=(0, 3))


def judge(wav, gain=1.0):
    """Two branches without parameters: scores and features are smooth functions of the wav."""
    rows = wav.reshape(wav.shape[0], -1, 40)
    scores = jnp.tanh(gain * rows.sum(-1)), jnp.tanh(gain * rows.mean(-1))
    return [Judgement(score, (rows[..., None],)) for score in scores]


def draws(seed, shapes=((2, 9), (2, 9))):
    """Scores in steps of 1 / 256, so that no difference rounds."""
    stream = np.random.default_rng(seed)
    draw = lambda shape: np.round(26 * stream.standard_normal(shape)) / 256
    return [draw(shape).astype(np.float32) for shape in shapes]


def relativistic_by_hand(better, worse, limit):
    total = 0.0
    for a, b in zip(better, worse):
        gaps = np.sort(a - b, axis=None)
        median = gaps[(len(gaps) - 1) // 2]
        below = [(gap - median) ** 2 for gap in gaps if gap < median]
        total += min(limit, float(np.mean(below)))
    return total


@pytest.mark.parametrize("limit", [0.04, 0.003])
def test_relativistic_loss_is_the_capped_mean_square_below_the_lower_median(limit):
    better, worse = draws(0), draws(1)
    got = relativistic_loss(better, worse, limit)
    np.testing.assert_allclose(got, relativistic_by_hand(better, worse, limit), rtol=1e-5)


def test_the_median_of_an_even_number_is_the_lower_of_the_middle():
    median = jax.jit(gan.lower_median)
    assert median(np.array([[4.0, 1.0], [3.0, 2.0]])) == 2.0
    assert median(np.array([5.0, 1.0, 3.0])) == 3.0


def test_equal_gaps_cost_nothing_and_have_a_finite_gradient():
    loss = lambda x: gan.relativistic_loss([x], [x - 0.5], 0.04)
    value, gradient = jax.jit(jax.value_and_grad(loss))(np.zeros((1, 4), np.float32))
    assert value == 0.0
    assert np.all(np.isfinite(gradient))


def test_perfect_discriminators_lose_nothing_and_confused_ones_a_half():
    ones, zeros, halves = ([np.full((2, 3), x, np.float32)] for x in (1.0, 0.0, 0.5))
    assert discriminator_loss(ones, zeros) == 0.0
    assert discriminator_loss(halves, halves) == 0.5
    assert generator_loss(ones) == 0.0
    assert generator_loss(zeros) == 1.0


def test_branches_are_added_not_averaged():
    score = np.zeros((2, 3), np.float32)
    assert generator_loss([score] * 4) == 4.0
    assert jax.jit(gan.feature_loss)([[score] * 3] * 2, [[score + 1.0] * 3] * 2) == 12.0


def test_loudness_moves_the_mel_loss_by_its_logarithm():
    gained = mel_loss(WAV, 2 * WAV)
    np.testing.assert_allclose(gained, np.log(2.0), rtol=1e-3)


def test_the_mel_loss_hears_above_eight_kilohertz():
    hiss = 0.1 * np.sin(2 * np.pi * 10_000 / 24_000 * np.arange(SAMPLES))
    noisy = (WAV + hiss).astype(np.float32)
    deaf = (dataclasses.replace(gan.FULL_BAND_MEL, fmax_hz=8000.0),)
    assert mel_loss(WAV, noisy) > 5 * mel_loss(WAV, noisy, deaf)


def test_masked_pitch_does_not_count_even_when_it_is_not_a_number():
    mask = np.array([[True, True, False, True]] * 2)
    loss = jax.jit(jax.value_and_grad(lambda f0: gan.f0_loss(F0 + 3, f0, mask)))
    poisoned = F0 + np.float32([0, 0, np.nan, 0])
    value, gradient = loss(poisoned)
    assert value == 3.0 and loss(F0 + np.float32([0, 3, 0, 0]))[0] == 2.0
    np.testing.assert_allclose(gradient, -np.where(mask, 1 / 6, 0.0), rtol=1e-6)


def test_the_discriminator_turn_sends_no_gradient_to_the_generator():
    loss = lambda fake: gan.discriminator_turn(judge, WAV, fake, gan.GanLossConfig())[0]
    assert np.all(np.asarray(jax.jit(jax.grad(loss))(OTHER)) == 0)


def test_the_generator_turn_adds_its_terms_with_their_weights():
    config = gan.GanLossConfig()
    loss, terms = jax.device_get(generator_turn(judge, (WAV, F0), (OTHER, F0 + 2), config))
    wanted = (
        terms["loss_adversarial"]
        + 2.0 * terms["loss_feature"]
        + 45.0 * terms["loss_mel"]
        + terms["loss_relative"]
        + terms["loss_f0"]
    )
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert terms["loss_f0"] == 2.0


def test_the_turns_hold_the_scores_against_each_other_in_opposite_order():
    config = gan.GanLossConfig(relative_limit=100.0)
    quiet = lambda wav: judge(wav, gain=0.05)
    scores = jax.jit(lambda wav: [j.score for j in quiet(wav)])
    real, fake = scores(WAV), scores(OTHER)
    _, of_critics = discriminator_turn(quiet, WAV, OTHER, config)
    _, of_generator = generator_turn(quiet, (WAV, F0), (OTHER, F0), config)
    there, back = (float(relativistic_loss(*s, 100.0)) for s in ((real, fake), (fake, real)))
    assert there != back
    np.testing.assert_allclose(of_critics["loss_relative"], there, rtol=1e-4)
    np.testing.assert_allclose(of_generator["loss_relative"], back, rtol=1e-4)


def test_no_relative_weight_leaves_the_term_out():
    config = gan.GanLossConfig(relative_weight=0.0)
    critics = jax.eval_shape(lambda: gan.discriminator_turn(judge, WAV, OTHER, config)[1])
    both = (WAV, F0), (OTHER, F0)
    generator = jax.eval_shape(lambda: gan.generator_turn(judge, *both, config)[1])
    assert "loss_relative" not in critics and "loss_relative" not in generator


def test_a_silent_generator_gets_a_finite_gradient():
    def loss(fake):
        return gan.generator_turn(judge, (WAV, F0), (fake, F0), gan.GanLossConfig())[0]

    assert np.all(np.isfinite(jax.jit(jax.grad(loss))(np.zeros_like(WAV))))


def test_config_survives_json_and_refuses_nonsense():
    config = gan.GanLossConfig(mel_weight=15.0)
    assert configs.from_dict(gan.GanLossConfig, configs.to_dict(config)) == config
    with pytest.raises(InputError, match="relative_limit"):
        gan.GanLossConfig(relative_limit=0.0)
    with pytest.raises(InputError, match="must agree"):
        gan.discriminator_turn(judge, WAV, OTHER[:, :-40], config)
