"""A finished synthesis, and how far one has come."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cosyjax.io import audio


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress callback is told after each piece."""

    piece: int  # 1-based
    num_pieces: int
    audio_s: float
    elapsed_s: float

    @property
    def left_s(self) -> float:
        """Estimated seconds until the last piece is done."""
        return self.elapsed_s / self.piece * (self.num_pieces - self.piece)


@dataclasses.dataclass(frozen=True)
class Speech:
    """A finished synthesis."""

    wav: np.ndarray  # [N] float32 in [-0.99, 0.99]
    sample_rate_hz: int
    pieces: tuple[str, ...]  # the normalised text, as it was split
    speech_tokens: tuple[np.ndarray, ...]  # of each piece, 25 Hz

    @property
    def seconds(self) -> float:
        """Length of the audio."""
        return len(self.wav) / self.sample_rate_hz

    def save(self, path: Path | str) -> None:
        """Writes wav, flac, ogg or mp3, by the suffix of `path`."""
        audio.write_audio(path, self.wav, self.sample_rate_hz)
