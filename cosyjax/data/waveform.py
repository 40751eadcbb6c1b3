"""Waveforms out of encoded bytes, at the rate that a stage needs; for the reading threads."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import threading
from typing import ClassVar

import numpy as np

from cosyjax.data.bucketed import BucketedPipeline
from cosyjax.data.config import Source
from cosyjax.data.pipeline import Pipeline
from cosyjax.errors import InputError
from cosyjax.io.audio import read_raw
from cosyjax.ops.resample import num_resampled

FULL_SCALE = 32767  # of 16 bits


class Decoder:
    """Decodes recordings and keeps them while there is room.

    Opus takes 4 ms of a core for a second of speech. What does not fit into the cache is decoded
    anew each time: in a shuffled order no recording is worth more than another. A cached recording
    has 16 bits, and so has every other, so that the cache changes nothing.
    """

    def __init__(self, cache_bytes: int):
        self._room, self._lock = cache_bytes, threading.Lock()
        self._kept: dict[bytes, tuple[np.ndarray, int]] = {}

    def raw(self, encoded: bytes) -> tuple[np.ndarray, int]:
        """Decodes bytes: [N] float32 in [-1, 1], mean over channels, and the rate in Hz.

        Raises:
          InputError: not readable as audio, or empty.
        """
        name = hashlib.blake2b(encoded, digest_size=16).digest()
        found = self._kept.get(name)
        if found is None:
            wav, rate_hz = read_raw(encoded)
            found = np.rint(np.clip(wav, -1.0, 1.0) * FULL_SCALE).astype(np.int16), rate_hz
            self._keep(name, found)
        return found[0].astype(np.float32) / FULL_SCALE, found[1]

    def _keep(self, name: bytes, found: tuple[np.ndarray, int]) -> None:
        with self._lock:
            if name not in self._kept and found[0].nbytes <= self._room:
                self._kept[name] = found
                self._room -= found[0].nbytes

    def whole(self, encoded: bytes, rate_hz: int) -> np.ndarray:
        """Decodes a whole recording: [N] float32 at `rate_hz`."""
        wav, from_hz = self.raw(encoded)
        return resample(wav, from_hz, rate_hz)

    def crop(
        self, encoded: bytes, rate_hz: int, num_samples: int, random: np.random.Generator
    ) -> np.ndarray:
        """Cuts a piece at a random place: [num_samples] float32 at `rate_hz`.

        A recording that is shorter than the piece is repeated.
        """
        wav, from_hz = self.raw(encoded)
        wanted = math.ceil(num_samples * from_hz / rate_hz)
        if len(wav) < wanted:
            wav = np.resize(wav, wanted)
        start = int(random.integers(len(wav) - wanted + 1))
        # Only what is kept is resampled: a clip may be many times as long.
        return resample(wav[start : start + wanted], from_hz, rate_hz)[:num_samples]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioPipeline(BucketedPipeline):
    """A pipeline that decodes recordings."""

    cache_mb: int = 1024  # decoded recordings kept in memory, a process; 170 MB hold an hour

    free: ClassVar[tuple[str, ...]] = (*Pipeline.free, "cache_mb")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_mb < 0:
            raise InputError(f"cache_mb={self.cache_mb}; 0 keeps nothing")

    def open(self, split: str) -> tuple[Source, ...]:
        """Opens every source, and imports what decodes them before many threads do so at once."""
        import soundfile  # noqa: F401
        import soxr  # noqa: F401

        return super().open(split)

    @functools.cached_property
    def decoder(self) -> Decoder:
        """Shared by the splits and the threads."""
        return Decoder(self.cache_mb * 10**6)


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
