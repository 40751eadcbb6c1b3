"""Shapes, sizes and views of the discriminators."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.models import discriminators
from cosyjax.models.discriminators import (
    Discriminators,
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)

TINY = DiscriminatorsConfig(
    MultiPeriodConfig(periods=(2, 3), channels=(4, 4)),
    MultiResolutionConfig(
        resolutions=((64, 16, 40),), channels=4, num_strided=1, kernel=(3, 3), out_kernel=(1, 3)
    ),
)
PARAMS = jax.jit(lambda: discriminators.init_params(TINY, jax.random.key(0)))()
JUDGE = jax.jit(lambda wav: Discriminators(TINY).apply({"params": PARAMS}, wav))


def speech(num_samples):
    return 0.3 * jax.random.normal(jax.random.key(1), (2, num_samples))


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_full_size_has_the_published_number_of_parameters():
    make = lambda: discriminators.init_params(DiscriminatorsConfig(), jax.random.key(0))
    params = jax.eval_shape(make)
    by_period = {k: v for k, v in params.items() if k.startswith("periods")}
    assert count(by_period) == 41_105_770
    assert count(params) - count(by_period) == 280_902


def test_every_branch_gives_a_score_and_a_feature_map_per_convolution():
    judgements = JUDGE(speech(301))
    assert [len(j.features) for j in judgements] == [3, 3, 4]
    for judgement in judgements:
        assert judgement.score.shape == (2, math.prod(judgement.features[-1].shape[1:]))


def test_rows_of_a_batch_do_not_talk():
    wav = speech(301)
    whole, first = JUDGE(wav), JUDGE(wav[:1])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(first), strict=True):
        np.testing.assert_allclose(a[:1], b, atol=1e-5)


def test_folding_puts_samples_a_period_apart_into_one_column():
    rows = discriminators.fold(jnp.arange(8.0)[None], 3)
    np.testing.assert_array_equal(rows[0], [[0, 1, 2], [3, 4, 5], [6, 7, 6]])


def test_one_sample_moves_only_its_own_column_of_a_period():
    wav = speech(301)
    moved = wav.at[:, 30].add(1.0)  # 30 % 3 == 0
    a, b = JUDGE(wav)[1].features[0], JUDGE(moved)[1].features[0]
    changed = np.any(np.asarray(a != b), axis=(0, 1, 3))
    np.testing.assert_array_equal(changed, [True, False, False])


def test_magnitudes_of_a_sine_peak_at_its_bin():
    fft_size, bin_index = 64, 10
    wav = jnp.sin(2 * jnp.pi * bin_index / fft_size * jnp.arange(640.0))[None]
    picture = discriminators.magnitudes(wav, fft_size, 16, 40)
    assert picture.shape == (1, 41, 33)
    inner = np.asarray(picture[0, 5:-5])
    assert np.all(np.argmax(inner, axis=1) == bin_index)
    # A Hann window of 40 samples sums to 20; a sine of amplitude 1 has half of that.
    np.testing.assert_allclose(inner[:, bin_index], 10.0, rtol=0.01)


def test_silence_has_a_finite_gradient():
    loss = lambda wav: sum(jnp.sum(judgement.score) for judgement in JUDGE(wav))
    assert np.all(np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros((2, 301)))))


def test_too_short_a_wav_is_an_error_that_names_the_length_needed():
    with pytest.raises(InputError, match="20 samples; the discriminators need 33"):
        Discriminators(TINY).apply({"params": PARAMS}, speech(20))


def test_bfloat16_judges_nearly_alike():
    low = DiscriminatorsConfig(
        dataclasses.replace(TINY.multi_period, compute="bfloat16"),
        dataclasses.replace(TINY.multi_resolution, compute="bfloat16"),
    )
    wav = speech(301)
    low_judge = jax.jit(lambda wav: Discriminators(low).apply({"params": PARAMS}, wav))
    for a, b in zip(JUDGE(wav), low_judge(wav), strict=True):
        np.testing.assert_allclose(a.score, b.score, atol=0.05 * float(jnp.std(a.score)))


def test_config_survives_json_and_refuses_nonsense():
    assert configs.from_dict(DiscriminatorsConfig, configs.to_dict(TINY)) == TINY
    with pytest.raises(InputError, match="odd"):
        MultiPeriodConfig(width=4)
    with pytest.raises(InputError, match="window <= FFT size"):
        MultiResolutionConfig(resolutions=((64, 16, 80),))
    with pytest.raises(InputError, match="bfloat16x3"):
        MultiPeriodConfig(compute="int8")
