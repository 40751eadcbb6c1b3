"""Mel filters and log-mel spectrograms."""

import functools

import jax
import librosa
import numpy as np
import pytest

from cosyjax.convert.parity import audio, fixture, runner
from cosyjax.ops import mel
from tests import contracts
from tests.drawn import normal

SMALL_16K = mel.MelConfig(16_000, 400, 160, 400, num_mels=20, fmax_hz=None)
SMALL_24K = mel.MelConfig(24_000, 240, 60, 240, num_mels=12)


@pytest.mark.parametrize("config", [mel.WHISPER_128, mel.MATCHA_80, SMALL_24K])
def test_filters_equal_those_of_librosa(config):
    wanted = librosa.filters.mel(
        sr=config.sample_rate_hz,
        n_fft=config.n_fft,
        n_mels=config.num_mels,
        fmin=config.fmin_hz,
        fmax=config.fmax_hz,
    )
    np.testing.assert_allclose(mel.filterbank(config).T, wanted, atol=2e-9)


@pytest.mark.parametrize("name", ["logmel128_16k", "mel80_24k"])
def test_spectrograms_equal_the_golden_files(golden, name):
    loaded = fixture.load_fixture(golden / f"{name}.json", runner.manifest_keys)
    rows = list(runner._rows(loaded, audio.FIXTURES[name]))
    assert rows and [row for row in rows if row.verdict != "ok"] == []


@pytest.mark.parametrize(
    "fn, config", [(mel.log_mel_128, SMALL_16K), (mel.log_mel, SMALL_24K)], ids=["16k", "24k"]
)
def test_padding_changes_no_spectrogram(fn, config):
    # Loudness differs by 1e4 between rows: a floor taken over the batch would show.
    x = normal(3, 1700) * np.array([[1.0], [1e-4], [0.1]], np.float32)
    lengths = (1700, 1000, 641)
    spectrogram = jax.jit(functools.partial(fn, config=config))
    contracts.assert_padding_inert(spectrogram, x, lengths, ratio=1 / config.hop_samples)


def test_frames_after_the_end_are_zero():
    run = jax.jit(functools.partial(mel.log_mel_128, config=SMALL_16K))
    made = np.asarray(run(np.ones((1, 1600), np.float32), np.array([799])))
    assert np.all(made[0, 4:] == 0)


def test_silence_is_the_floor_of_the_logarithm():
    silence = lambda num: np.zeros((1, num), np.float32)
    np.testing.assert_allclose(jax.jit(mel.mel_80)(silence(1440)), np.log(1e-5), rtol=2e-2)
    quietest = jax.jit(mel.log_mel_128)(silence(800))
    np.testing.assert_allclose(quietest, (-10 + 4) / 4, rtol=1e-6)
