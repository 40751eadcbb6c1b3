"""Utterances for the flow, in batches of like length.

CosyVoice 2 (arXiv 2412.10117) section 2.4. What is masked as the prompt is drawn by the loss, which
needs whole utterances.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cosyjax.data.bucketed import BucketedPipeline, bucket_of, check_buckets, rows_by_budget
from cosyjax.data.config import Source
from cosyjax.data.pipeline import Arrays
from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError
from cosyjax.shapes import CODEBOOK_SIZE, FRAMES_PER_TOKEN, NUM_MELS, SPEAKER_DIM


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowData(BucketedPipeline):
    """Batches: `speech_tokens` int32 [B, T], `num_tokens` int32 [B], `mel` float32 [B, 2T, 80],
    `speaker_embedding` float32 [B, 192], `records` int64 [B]; T is one of `buckets`.
    """

    buckets: tuple[int, ...] = (100, 150, 200, 300, 400, 600, 750)  # tokens, 25 a second
    same_frames: bool = True  # shorter buckets get more rows; False: batch_size rows in every one
    row_multiple: int = 8  # with same_frames, rows are a multiple of it: devices along the batch
    codebook_size: int = CODEBOOK_SIZE  # of the speech tokenizer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_buckets("buckets", self.buckets)
        if self.row_multiple < 1:
            raise InputError(f"row_multiple={self.row_multiple}; at least 1 is needed")

    def sizes(self) -> tuple[int, ...]:
        """Rows of each bucket; `batch_size` of the longest give the budget of frames."""
        if not self.same_frames:
            return (self.batch_size,) * len(self.buckets)
        return rows_by_budget(self.buckets, self.batch_size, self.row_multiple)

    def buckets_of(self, source: Source, skips: SkipLog) -> np.ndarray:
        """By the number of speech tokens."""
        num_tokens = np.asarray(source.column("num_speech_tokens"), np.int64)
        chosen = bucket_of(num_tokens, self.buckets)
        skips.unsuitable("no speech tokens", source, num_tokens == 0)
        skips.unsuitable(f"longer than {self.buckets[-1]} tokens", source, chosen < 0)
        return np.where(num_tokens > 0, chosen, -1)

    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records."""
        size = self.buckets[bucket]
        return {
            "speech_tokens": np.zeros((num_rows, size), np.int32),
            "num_tokens": np.zeros(num_rows, np.int32),
            "mel": np.zeros((num_rows, FRAMES_PER_TOKEN * size, NUM_MELS), np.float32),
            "speaker_embedding": np.zeros((num_rows, SPEAKER_DIM), np.float32),
        }

    def sample(
        self, record: dict[str, Any], random: np.random.Generator, bucket: int
    ) -> dict[str, Any]:
        """A whole utterance."""
        tokens, mel = record["speech_tokens"], record["mel"]
        if mel.shape != (FRAMES_PER_TOKEN * len(tokens), NUM_MELS):
            raise InputError(f"{len(tokens)} speech tokens do not fit a mel of {mel.shape}")
        if tokens.min() < 0 or tokens.max() >= self.codebook_size:
            raise InputError(
                f"speech tokens from {tokens.min()} to {tokens.max()}; codebook_size="
                f"{self.codebook_size} allows 0 to {self.codebook_size - 1}"
            )
        return {
            "speech_tokens": tokens,
            "num_tokens": len(tokens),
            "mel": mel,
            "speaker_embedding": record["speaker_embedding"],
        }
