"""Decoded recordings, kept in memory or not."""

import numpy as np
import pytest

from cosyjax.data import waveform
from cosyjax.errors import InputError
from tests.data import memory

RATE_HZ = 16_000


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the files that were decoded."""
    sizes = []
    read_raw = waveform.read_raw
    monkeypatch.setattr(waveform, "read_raw", lambda x: (sizes.append(len(x)), read_raw(x))[1])
    return sizes


def clips(count):
    return [memory.encoded(memory.ramp(1000 + i), RATE_HZ) for i in range(count)]


def test_what_was_kept_equals_what_was_decoded(decoded):
    (clip,) = clips(1)
    keeping, forgetting = waveform.Decoder(10**6), waveform.Decoder(0)
    got = [decoder.whole(clip, RATE_HZ) for decoder in (keeping, keeping, forgetting, forgetting)]
    assert len(decoded) == 3
    for wav in got:
        assert wav.dtype == np.float32
        np.testing.assert_array_equal(wav, memory.ramp(1000))


def test_a_full_cache_keeps_what_it_has_and_no_more(decoded):
    decoder = waveform.Decoder(5000)  # two clips of 2 bytes a sample
    for _ in range(2):
        for clip in clips(4):
            decoder.raw(clip)
    assert len(decoded) == 4 + 2
    assert sum(wav.nbytes for wav, _ in decoder._kept.values()) <= 5000


def test_changing_a_wav_does_not_change_what_is_kept():
    decoder, (clip,) = waveform.Decoder(10**6), clips(1)
    decoder.whole(clip, RATE_HZ)[:] = 0
    np.testing.assert_array_equal(decoder.whole(clip, RATE_HZ), memory.ramp(1000))


def test_samples_beyond_full_scale_are_clipped():
    loud = memory.encoded(np.asarray([2.0, -2.0], np.float32), RATE_HZ)
    np.testing.assert_array_equal(waveform.Decoder(0).whole(loud, RATE_HZ), [1.0, -1.0])


def test_bytes_that_are_no_audio_are_refused():
    with pytest.raises(InputError, match="not readable as audio"):
        waveform.Decoder(10**6).raw(b"nothing")


@pytest.mark.parametrize("num_samples", [1, 2, 999, 1000, 1001])
def test_a_resampled_tone_keeps_its_pitch_and_has_a_length_rounded_up(num_samples):
    tone = np.sin(2 * np.pi * 440 * np.arange(num_samples) / 24_000).astype(np.float32)
    got = waveform.resample(tone, 24_000, RATE_HZ)
    assert got.dtype == np.float32 and len(got) == -(-num_samples * 2 // 3)
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(got)) / RATE_HZ)
    np.testing.assert_allclose(got[200:-200], wanted[200:-200], atol=2e-3)
