"""Waveforms out of encoded bytes, at the rate that a stage needs; for the reading threads."""

from __future__ import annotations

import math

import numpy as np

from cosyjax.errors import InputError
from cosyjax.io.audio import read_raw
from cosyjax.ops.resample import num_resampled


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Changes the rate of wav [N]: [ceil(N * to_hz / from_hz)] float32.

    `ops.resample` would compile a program for every length. This is what librosa.resample calls,
    which itself takes seconds to import.
    """
    if from_hz == to_hz:
        return wav
    import soxr

    length = num_resampled(len(wav), from_hz, to_hz)
    resampled = soxr.resample(wav, from_hz, to_hz, quality="HQ")[:length]
    return np.pad(resampled, (0, length - len(resampled)))


def decode(encoded: bytes, rate_hz: int) -> np.ndarray:
    """Decodes a whole recording: [N] float32 at `rate_hz`.

    Raises:
      InputError: not readable as audio, or empty.
    """
    wav, from_hz = read_raw(encoded)
    return resample(wav, from_hz, rate_hz)


def decode_crop(
    encoded: bytes, rate_hz: int, num_samples: int, random: np.random.Generator
) -> np.ndarray:
    """Decodes a recording and cuts a piece at a random place.

    Returns:
      [num_samples] float32 at `rate_hz`; a shorter recording is repeated.

    Raises:
      InputError: not readable as audio, or empty.
    """
    wav, from_hz = read_raw(encoded)
    wanted = math.ceil(num_samples * from_hz / rate_hz)
    if len(wav) < wanted:
        wav = np.resize(wav, wanted)
    start = int(random.integers(len(wav) - wanted + 1))
    # Only what is kept is resampled: a clip is often ten times as long.
    piece = resample(wav[start : start + wanted], from_hz, rate_hz)[:num_samples]
    if len(piece) < num_samples:
        raise InputError(f"{len(wav)} samples at {from_hz} Hz are too few at {rate_hz} Hz")
    return piece
