"""The sinc resampler."""

import jax
import numpy as np
import pytest

from cosyjax.convert.parity import audio, fixture, runner
from cosyjax.errors import InputError
from cosyjax.ops import resample


def _tone(rate_hz, seconds=0.1, hz=440.0):
    return np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)[None]


def test_resampling_equals_the_golden_file(golden):
    loaded = fixture.load_fixture(golden / "resample.json", runner.manifest_keys)
    rows = list(runner._rows(loaded, audio.FIXTURES["resample"]))
    assert rows and [row for row in rows if row.verdict != "ok"] == []


@pytest.mark.parametrize("from_hz, to_hz", [(8_000, 24_000), (48_000, 16_000), (44_056, 16_000)])
def test_a_tone_stays_the_same_tone(from_hz, to_hz):
    y = np.asarray(resample.resample(_tone(from_hz), from_hz, to_hz))
    wanted = _tone(to_hz)[:, : y.shape[1]]
    inner = slice(y.shape[1] // 4, -y.shape[1] // 4)  # the ends ring: beyond them is silence
    np.testing.assert_allclose(y[:, : wanted.shape[1]][:, inner], wanted[:, inner], atol=5e-3)


@pytest.mark.parametrize("old, new", [(3, 2), (147, 160), (2, 3), (1, 4)])
def test_gathered_taps_equal_the_dense_filter(old, new):
    x = jax.random.normal(jax.random.key(0), (2, 500))
    count = resample.num_resampled(500, old, new)
    dense = jax.jit(resample._resample_dense, static_argnums=(1, 2))(x, old, new)[:, :count]
    taps = jax.jit(resample._resample_taps, static_argnums=(1, 2))(x, old, new)[:, :count]
    np.testing.assert_allclose(taps, dense, atol=2e-6)


def test_equal_rates_change_nothing():
    x = _tone(16_000).astype(np.float32)
    np.testing.assert_array_equal(resample.resample(x, 16_000, 16_000), x)


def test_a_rate_of_zero_is_refused():
    with pytest.raises(InputError, match="positive integers"):
        resample.resample(_tone(16_000), 0, 16_000)


def test_one_wav_without_a_batch_is_taken_too():
    x = _tone(24_000)
    one = resample.resample(x[0], 24_000, 16_000)
    np.testing.assert_array_equal(one, resample.resample(x, 24_000, 16_000)[0])
