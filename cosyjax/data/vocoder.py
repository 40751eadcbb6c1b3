"""Random pieces of recordings with their pitch, for the vocoder."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from cosyjax.data import records
from cosyjax.data.config import Source
from cosyjax.data.pipeline import Arrays
from cosyjax.data.skips import SkipLog
from cosyjax.data.waveform import AudioPipeline
from cosyjax.errors import InputError
from cosyjax.shapes import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

FRAME_RATE_HZ = SAMPLE_RATE_HZ // SAMPLES_PER_FRAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocoderData(AudioPipeline):
    """Batches: `wav` float32 [B, 480 F] at 24 kHz, `f0` float32 [B, F] in Hz, `voiced` bool [B, F],
    `records` int64 [B] of the features; F = crop_frames.
    """

    crop_frames: int = 24  # mel frames of a piece, 50 a second; shorter recordings are left out

    kind: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_frames < 1:
            raise InputError(f"crop_frames={self.crop_frames}; at least 1 is needed")

    def open(self, split: str) -> tuple[Source, ...]:
        """Opens the features of every source, with the recordings beside them."""
        return tuple(
            WithAudio(features, records.open_source(config.path, "audio", split))
            for features, config in zip(super().open(split), self.sources, strict=True)
        )

    def buckets_of(self, source: Source, skips: SkipLog) -> np.ndarray:
        """A single bucket; what is shorter than a piece is in none."""
        duration_s = np.asarray(source.column("duration_s"), np.float64)
        short = duration_s * FRAME_RATE_HZ < self.crop_frames
        skips.unsuitable(f"shorter than crop_frames={self.crop_frames}", source, short)
        return np.where(short, -1, 0)

    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records."""
        return {
            "wav": np.zeros((num_rows, self.crop_frames * SAMPLES_PER_FRAME), np.float32),
            "f0": np.zeros((num_rows, self.crop_frames), np.float32),
            "voiced": np.zeros((num_rows, self.crop_frames), bool),
        }

    def sample(
        self, record: dict[str, Any], random: np.random.Generator, bucket: int
    ) -> dict[str, Any]:
        """The same piece of the recording and of its pitch."""
        wav, f0 = self.decoder.whole(record["audio"], SAMPLE_RATE_HZ), record["f0"]
        most = min(len(f0), len(wav) // SAMPLES_PER_FRAME) - self.crop_frames
        if most < 0:
            raise InputError(f"{len(wav)} samples and {len(f0)} frames of pitch are too few")
        start = int(random.integers(most + 1))
        piece = f0[start : start + self.crop_frames]
        samples = slice(start * SAMPLES_PER_FRAME, (start + self.crop_frames) * SAMPLES_PER_FRAME)
        return {"wav": wav[samples], "f0": piece, "voiced": piece > 0}


class WithAudio:
    """Records of features with the encoded recording of the same id."""

    def __init__(self, features: Source, audio: Source):
        """Raises InputError where a recording is missing."""
        self._features, self._audio = features, audio
        places = {name: number for number, name in enumerate(audio.column("id"))}
        names = features.column("id")
        missing = [name for name in names if name not in places]
        if missing:
            raise InputError(
                f"{audio!r} lacks {len(missing)} recordings of {features!r}, {missing[0]} among "
                "them; run cosyjax prepare again on the folder"
            )
        self._places = [places[name] for name in names]

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, number: int) -> dict[str, Any]:
        audio = self._audio[self._places[number]]
        return self._features[number] | {"audio": audio["audio"]}

    def column(self, name: str) -> list[Any]:
        """A column of the features."""
        return self._features.column(name)

    def __repr__(self) -> str:
        return f"WithAudio({self._features!r})"
