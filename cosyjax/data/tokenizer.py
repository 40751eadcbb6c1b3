"""Recordings with their transcripts, in batches of like length, for the speech tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cosyjax.data.bucketed import bucket_of, check_buckets, rows_by_budget
from cosyjax.data.config import Source
from cosyjax.data.pipeline import Arrays
from cosyjax.data.skips import SkipLog
from cosyjax.data.waveform import AudioPipeline
from cosyjax.errors import InputError
from cosyjax.shapes import TOKENIZER_RATE_HZ
from cosyjax.text.tokenizer import TextTokenizer, load_tokenizer

SLACK_S = 0.02  # a recording may be so much longer than its record says


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerData(AudioPipeline):
    """Batches: `wav` float32 [B, N] at 16 kHz, `num_samples` int32 [B], `text_tokens` int32 [B, S],
    `num_text` int32 [B], `records` int64 [B]; N is one of `buckets_s`, and S follows it.
    """

    tokenizer: str = ""  # folder with tokenizer.json, as a bundle's tokenizer/
    buckets_s: tuple[float, ...] = (4.0, 6.0, 8.0, 12.0, 16.0, 30.0)  # lengths of the rows
    text_per_s: float = 16.0  # text tokens that a row has room for, per second; more: left out
    same_samples: bool = True  # shorter buckets get more rows; False: batch_size rows in every one
    row_multiple: int = 8  # with same_samples, rows are a multiple of it: devices along the batch

    kind: ClassVar[str] = "audio"
    free: ClassVar[tuple[str, ...]] = (*AudioPipeline.free, "tokenizer")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_buckets("buckets_s", self.buckets_s)
        if self.row_multiple < 1 or not self.text_per_s > 0:
            raise InputError(
                f"row_multiple={self.row_multiple}, text_per_s={self.text_per_s}: at least 1 and "
                "above 0 are needed"
            )

    @functools.cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """The tokenizer of the transcripts."""
        if not self.tokenizer:
            raise InputError("no text tokenizer: set data.tokenizer to a folder")
        return load_tokenizer(Path(self.tokenizer))

    def open(self, split: str) -> tuple[Source, ...]:
        """Opens the sources, and the text tokenizer, so that a wrong folder is told at once."""
        assert self.text_tokenizer
        return super().open(split)

    def sizes(self) -> tuple[int, ...]:
        """Rows of each bucket."""
        if not self.same_samples:
            return (self.batch_size,) * len(self.buckets_s)
        return rows_by_budget(self.buckets_s, self.batch_size, self.row_multiple)

    def buckets_of(self, source: Source, skips: SkipLog) -> np.ndarray:
        """By duration."""
        chosen = bucket_of(np.asarray(source.column("duration_s"), np.float64), self.buckets_s)
        skips.unsuitable(f"longer than {self.buckets_s[-1]} s", source, chosen < 0)
        return chosen

    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records."""
        num_samples = math.ceil(self.buckets_s[bucket] * TOKENIZER_RATE_HZ)
        num_text = math.ceil(self.buckets_s[bucket] * self.text_per_s)
        return {
            "wav": np.zeros((num_rows, num_samples), np.float32),
            "num_samples": np.zeros(num_rows, np.int32),
            "text_tokens": np.zeros((num_rows, num_text), np.int32),
            "num_text": np.zeros(num_rows, np.int32),
        }

    def sample(
        self, record: dict[str, Any], random: np.random.Generator, bucket: int
    ) -> dict[str, Any]:
        """A whole recording and its transcript."""
        text_tokens = self.text_tokenizer.encode(record["text"])
        room = math.ceil(self.buckets_s[bucket] * self.text_per_s)
        if not 0 < len(text_tokens) <= room:
            raise InputError(
                f"{len(text_tokens)} text tokens where 1 to {room} fit; raise data.text_per_s"
            )
        wav = self.decoder.whole(record["audio"], TOKENIZER_RATE_HZ)
        most = math.ceil(self.buckets_s[bucket] * TOKENIZER_RATE_HZ)
        if len(wav) > most + SLACK_S * TOKENIZER_RATE_HZ:
            raise InputError(f"{len(wav)} samples, longer than its duration_s says")
        wav = wav[:most]
        return {
            "wav": wav,
            "num_samples": len(wav),
            "text_tokens": text_tokens,
            "num_text": len(text_tokens),
        }
