"""Pitch of tones is exact, noise has none, and padding changes nothing."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import pitch

RATE_HZ = 24_000
HOP = 480


@functools.cache
def jitted():
    return jax.jit(pitch.yin)


def voice(f0_hz: np.ndarray) -> np.ndarray:
    """Ten harmonics that follow a pitch given per sample."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    return (0.2 * sum(np.sin(k * phase) / k for k in range(1, 11))).astype(np.float32)


def test_the_pitch_of_a_steady_voice_is_found_to_a_thousandth():
    pitches = [70.0, 98.5, 180.0, 333.3, 480.0]
    wav = np.stack([voice(np.full(RATE_HZ // 2, f0)) for f0 in pitches])
    found = np.asarray(jitted()(wav, np.full(len(wav), wav.shape[1], np.int32)))
    assert found.shape == (len(pitches), wav.shape[1] // HOP)
    wanted = np.repeat(np.array(pitches)[:, None], found.shape[1], 1)
    np.testing.assert_allclose(found[:, 2:-2], wanted[:, 2:-2], rtol=1e-3)


def test_a_glide_is_followed_at_the_centre_of_each_mel_frame():
    f0 = np.linspace(120, 150, RATE_HZ // 2)
    found = np.asarray(jitted()(voice(f0)[None], np.array([len(f0)], np.int32)))[0]
    centres = f0[np.arange(len(found)) * HOP + HOP // 2]
    np.testing.assert_allclose(found[2:-2], centres[2:-2], rtol=5e-3)


@pytest.mark.slow
def test_it_agrees_with_librosa_on_a_glide_in_noise():
    librosa = pytest.importorskip("librosa")
    f0 = np.linspace(150, 180, RATE_HZ // 2)
    noise = np.random.default_rng(0).standard_normal(len(f0)).astype(np.float32)
    wav = voice(f0) + 0.01 * noise
    found = np.asarray(jitted()(wav[None], np.array([len(wav)], np.int32)))[0]
    padded = np.pad(wav, (1024 - HOP // 2, 2048))  # centres librosa's frames on ours
    theirs = librosa.yin(
        padded, fmin=60, fmax=500, sr=RATE_HZ, frame_length=2048, hop_length=HOP, center=False
    )[: len(found)]
    np.testing.assert_allclose(found[3:-3], theirs[3:-3], rtol=0.02)


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, RATE_HZ // 2))
    wav = np.concatenate([noise, np.zeros_like(noise)]).astype(np.float32)
    found = np.asarray(jitted()(wav, np.full(2, wav.shape[1], np.int32)))
    assert np.mean(found[0] > 0) < 0.05
    assert not found[1].any()


def test_padding_and_other_rows_change_nothing():
    rng = np.random.default_rng(1)
    wav = np.stack([voice(np.full(4800, f0)) for f0 in (100.0, 150.0, 220.0)])
    wav += 0.01 * rng.standard_normal(wav.shape).astype(np.float32)
    lengths = np.array([4800, 3000, 960], np.int32)
    padded = np.where(np.arange(4800) < lengths[:, None], wav, np.nan).astype(np.float32)
    clean = np.nan_to_num(padded)
    found = np.asarray(jitted()(padded, lengths))
    np.testing.assert_array_equal(found, np.asarray(jitted()(clean, lengths)))
    for row, length in enumerate(lengths):
        assert not found[row, length // HOP :].any()
    alone = clean.copy()
    alone[1:] = 0.0
    np.testing.assert_array_equal(found[0], np.asarray(jitted()(alone, lengths))[0])
    assert found[:, 1].all()


def test_a_range_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="fmin_hz=600"):
        pitch.PitchConfig(fmin_hz=600.0)
