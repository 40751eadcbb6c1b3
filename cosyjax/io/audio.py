"""Audio files: any format that libsndfile reads comes in, wav, flac, ogg and mp3 go out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file
from cosyjax.ops import resample

# Suffix: (container, encoding) of libsndfile.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# libsndfile's Vorbis encoder overflows the stack on one long block.
BLOCK_SAMPLES = 1 << 16

AudioSource = str | os.PathLike[str] | bytes


def read_raw(source: AudioSource) -> tuple[np.ndarray, int]:
    """Reads a recording at its own rate.

    Args:
      source: a path, or the bytes of a file.

    Returns:
      wav: [N] float32, mean over channels.
      sample_rate_hz: the file's rate.

    Raises:
      InputError: absent, not audio, empty, or with samples that are not finite.
    """
    import soundfile

    name = "audio bytes" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else _existing(source)
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{name}: not readable as audio ({error}); give a wav, flac, ogg or mp3 file"
        ) from error
    if not samples.size:
        raise InputError(f"{name}: holds no samples")
    if not np.all(np.isfinite(samples)):
        raise InputError(f"{name}: holds samples that are not finite numbers")
    return samples.mean(axis=1, dtype=np.float32), int(rate_hz)


def read_audio(source: AudioSource, sample_rate_hz: int) -> np.ndarray:
    """Reads a recording: [N] float32, mean over channels, resampled to `sample_rate_hz`.

    Raises:
      InputError: see `read_raw`.
    """
    wav, rate_hz = read_raw(source)
    return np.asarray(resample.resample(wav, rate_hz, sample_rate_hz))


def write_audio(path: str | os.PathLike[str], wav: np.ndarray, sample_rate_hz: int) -> None:
    """Writes a waveform in the format of the suffix; on an error nothing is left behind.

    Args:
      path: ends in .wav (16-bit PCM), .flac, .ogg or .mp3.
      wav: [N] float in [-1, 1]; what lies outside is clipped.
      sample_rate_hz: rate of `wav`.

    Raises:
      InputError: another suffix, no samples, samples that are not finite, a rate that the format
        does not have, or a file that cannot be written.
    """
    path, wav = Path(path), np.asarray(wav)
    container, _ = FORMATS.get(path.suffix.lower(), ("", ""))
    if not container:
        allowed = ", ".join(FORMATS)
        raise InputError(f"{path}: cannot write {path.suffix or 'no suffix'!r}; allowed: {allowed}")
    if wav.ndim != 1 or not wav.size:
        raise InputError(f"{path}: a waveform is one row of samples, not shape {wav.shape}")
    if not np.all(np.isfinite(wav)):
        raise InputError(f"{path}: the waveform holds samples that are not finite numbers")
    if container == "MP3" and sample_rate_hz not in MP3_RATES_HZ:
        allowed = ", ".join(map(str, MP3_RATES_HZ))
        raise InputError(f"{path}: mp3 has no rate of {sample_rate_hz} Hz; allowed: {allowed}")
    encoded = _encode(path, wav, sample_rate_hz)
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(encoded)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _encode(path: Path, wav: np.ndarray, sample_rate_hz: int) -> bytes:
    """The file's bytes. They are made in memory because libsndfile hides a full disk."""
    import soundfile

    container, encoding = FORMATS[path.suffix.lower()]
    clipped, file = np.clip(wav, -1.0, 1.0).astype(np.float32), io.BytesIO()
    try:
        with soundfile.SoundFile(
            file, "w", sample_rate_hz, 1, format=container, subtype=encoding
        ) as sound:
            for start in range(0, len(clipped), BLOCK_SAMPLES):
                sound.write(clipped[start : start + BLOCK_SAMPLES])
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: {container} at {sample_rate_hz} Hz failed: {error}") from error
    return file.getvalue()


def _existing(source: str | os.PathLike[str]) -> str:
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give an audio file")
    return str(path)
