"""Random pieces of recordings with the number of their speaker, for the speaker encoder."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np

from cosyjax.data.config import Source
from cosyjax.data.pipeline import Arrays
from cosyjax.data.skips import SkipLog
from cosyjax.data.waveform import AudioPipeline
from cosyjax.errors import InputError
from cosyjax.shapes import TOKENIZER_RATE_HZ


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerData(AudioPipeline):
    """Batches: `wav` float32 [B, N] at 16 kHz, `speaker` int32 [B], `records` int64 [B]."""

    crop_s: float = 3.0  # length of a piece; a shorter recording is repeated

    kind: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.crop_s > 0:
            raise InputError(f"crop_s={self.crop_s}; a length above 0 is needed")

    @functools.cached_property
    def speakers(self) -> tuple[str, ...]:
        """Speakers of the train split by number, sorted; a name in two sources is one speaker."""
        return tuple(sorted({name for s in self.open("train") for name in s.column("speaker")}))

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.speakers)}

    def buckets_of(self, source: Source, skips: SkipLog) -> np.ndarray:
        """A single bucket; a held-out speaker who is not in the train split is in none."""
        known = np.asarray([name in self._numbers for name in source.column("speaker")], bool)
        skips.unsuitable("a speaker who is not in the train split", source, ~known)
        return np.where(known, 0, -1)

    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records."""
        wav = np.zeros((num_rows, round(self.crop_s * TOKENIZER_RATE_HZ)), np.float32)
        return {"wav": wav, "speaker": np.zeros(num_rows, np.int32)}

    def sample(
        self, record: dict[str, Any], random: np.random.Generator, bucket: int
    ) -> dict[str, Any]:
        """A piece of the recording."""
        num_samples = round(self.crop_s * TOKENIZER_RATE_HZ)
        wav = self.decoder.crop(record["audio"], TOKENIZER_RATE_HZ, num_samples, random)
        return {"wav": wav, "speaker": self._numbers[record["speaker"]]}
