"""Reading and writing audio files."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.errors import InputError
from cosyjax.io import audio

RATE_HZ = 24_000


def _tone(rate_hz=RATE_HZ, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate_hz * seconds)) / rate_hz)


@pytest.mark.parametrize(
    "suffix, atol", [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.1), (".mp3", 0.1)]
)
def test_each_format_comes_back_as_it_went(tmp_path, suffix, atol):
    path = tmp_path / f"tone{suffix}"
    audio.write_audio(path, _tone(), RATE_HZ)
    wav, rate_hz = audio.read_raw(path)
    assert rate_hz == RATE_HZ and wav.dtype == np.float32
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_allclose(wav[2000:8000], _tone()[2000:8000], atol=atol)


def test_wav_is_16_bit_pcm(tmp_path):
    audio.write_audio(tmp_path / "a.wav", _tone(), RATE_HZ)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_a_long_ogg_does_not_overflow_the_encoder(tmp_path):
    audio.write_audio(tmp_path / "a.ogg", _tone(seconds=60), RATE_HZ)
    assert soundfile.info(tmp_path / "a.ogg").frames == 60 * RATE_HZ


def test_samples_beyond_one_are_clipped_and_do_not_wrap(tmp_path):
    audio.write_audio(tmp_path / "a.wav", 3 * _tone(), RATE_HZ)
    wav, _ = audio.read_raw(tmp_path / "a.wav")
    assert np.all(np.sign(wav[1:25]) == 1) and wav.max() > 0.999


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([_tone(), np.zeros_like(_tone())], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, RATE_HZ, subtype="FLOAT")
    wav = audio.read_audio(tmp_path / "stereo.wav", RATE_HZ)
    np.testing.assert_allclose(wav, _tone() / 2, atol=1e-6)


def test_telephone_speech_is_resampled(tmp_path):
    soundfile.write(tmp_path / "phone.wav", _tone(8_000), 8_000, subtype="FLOAT")
    wav = audio.read_audio(tmp_path / "phone.wav", 16_000)
    assert wav.shape == (8_000,) and wav.dtype == np.float32
    np.testing.assert_allclose(wav[1000:-1000], _tone(16_000)[1000:-1000], atol=5e-3)


def test_bytes_are_read_like_a_file():
    file = io.BytesIO()
    soundfile.write(file, _tone(), RATE_HZ, format="FLAC")
    assert len(audio.read_audio(file.getvalue(), RATE_HZ)) == len(_tone())


@pytest.mark.parametrize("content", [b"", b"not audio at all" * 40, b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_not_audio_is_refused(tmp_path, content):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(InputError, match="not readable as audio"):
        audio.read_raw(tmp_path / "x.wav")
    with pytest.raises(InputError, match="not readable as audio"):
        audio.read_raw(content)


def test_a_missing_file_a_folder_and_an_empty_recording_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        audio.read_raw(tmp_path / "absent.wav")
    with pytest.raises(InputError, match="folder"):
        audio.read_raw(tmp_path)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE_HZ)
    with pytest.raises(InputError, match="no samples"):
        audio.read_raw(tmp_path / "empty.wav")


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    wav = _tone()
    wav[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", wav, RATE_HZ, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        audio.read_raw(tmp_path / "nan.wav")
    with pytest.raises(InputError, match="not finite"):
        audio.write_audio(tmp_path / "out.wav", wav, RATE_HZ)


@pytest.mark.parametrize(
    "name, wav, rate_hz, message",
    [
        ("a.aac", _tone(), RATE_HZ, r"allowed: .wav, .flac, .ogg, .mp3"),
        ("a", _tone(), RATE_HZ, "no suffix"),
        ("a.wav", np.zeros(0), RATE_HZ, "one row of samples"),
        ("a.wav", np.zeros((2, 5)), RATE_HZ, "one row of samples"),
        ("a.mp3", _tone(), 23_000, "mp3 has no rate"),
        ("a.wav", _tone(), 0, "failed"),
        ("absent/a.wav", _tone(), RATE_HZ, "does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path, name, wav, rate_hz, message
):
    with pytest.raises(InputError, match=message):
        audio.write_audio(tmp_path / name, wav, rate_hz)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code, message", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot")]
)
def test_a_failing_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, code, message):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def fail(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(code, "no")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=message):
        audio.write_audio(path, _tone(), RATE_HZ)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
