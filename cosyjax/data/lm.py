"""Packed sequences for the text-speech LM.

CosyVoice 2 (arXiv 2412.10117) section 2.3: every sample is laid out as unistream or bistream. A
row holds several sequences; none is cut. Segment ids keep them apart, and positions start anew in
each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosyjax.data.config import Source
from cosyjax.data.order import Batch, Batched, Draw, Mixed, Plan, in_order
from cosyjax.data.packing import Packed, pack_once
from cosyjax.data.pipeline import Arrays, Pipeline
from cosyjax.data.reader import Reader, number_of
from cosyjax.data.skips import SkipLog
from cosyjax.errors import InputError
from cosyjax.ops import interleave
from cosyjax.shapes import CODEBOOK_SIZE

EXTRA = 2  # sos and task stand beside the text and speech tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMData(Pipeline):
    """Batches: `ids kinds targets segment_ids positions` int32 [B, L], `records` int64 [B, K].

    `segment_ids` count from 1, 0 where nothing is; see `ops.interleave` for ids, kinds and
    targets. `records` are the sequences of a row, in the order of their segments.
    """

    max_length: int = 2048  # L, positions of a row; longer sequences are left out and counted
    codebook_size: int = CODEBOOK_SIZE  # of the speech tokenizer
    ratio: tuple[int, int] = (5, 15)  # text and speech tokens of a bistream block
    bistream: bool = True  # False: unistream only

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < EXTRA + 2 or min(self.ratio) < 1 or self.codebook_size < 2:
            raise InputError(
                f"max_length={self.max_length}, ratio={self.ratio}, codebook_size="
                f"{self.codebook_size}: at least {EXTRA + 2}, (1, 1) and 2 are needed"
            )

    def plan(self, sources: Sequence[Source], split: str, seed: int, skips: SkipLog) -> Plan:
        """Packs by the numbers of tokens, which the two layouts do not change."""
        usable = [self._usable(source, skips) for source in sources]
        kept = [i for i, (members, _) in enumerate(usable) if len(members)]
        if not kept:
            raise InputError(f"no usable record in the {split} split: {dict(skips.counts)}")
        if split != "train":
            rows = [row for i in kept for row in pack_once(i, *usable[i], self.max_length)]
            batches = in_order(0, rows, self.batch_size)
            return Plan(batches, len(batches))
        parts = [Packed(i, *usable[i], self.max_length, seed) for i in kept]
        mixed = Mixed(parts, [self.weight(i) for i in kept])
        return Plan(Batched(0, mixed, self.batch_size, max(part.most for part in parts)))

    def _usable(self, source: Source, skips: SkipLog) -> tuple[np.ndarray, np.ndarray]:
        """The records that can be used, and their lengths as sequences."""
        num_text = np.asarray(source.column("num_text_tokens"), np.int64)
        num_speech = np.asarray(source.column("num_speech_tokens"), np.int64)
        lengths = num_text + num_speech + EXTRA
        empty = (num_text == 0) | (num_speech == 0)
        long = ~empty & (lengths > self.max_length)
        skips.unsuitable("no text or no speech tokens", source, empty)
        skips.unsuitable(f"longer than max_length={self.max_length}", source, long)
        members = np.flatnonzero(~empty & ~long)
        return members, lengths[members]

    def collate(self, batch: Batch, reader: Reader) -> Arrays:
        """Lays the sequences of each row out one after another.

        A sequence that cannot be read leaves its place empty.

        Raises:
          InputError: none of the sequences of a training batch can be read.
        """
        arrays = self.empty(batch.bucket, len(batch.rows))
        arrays["records"] = np.full((len(batch.rows), batch.width), -1, np.int64)
        uses = [(row, draw) for row, r in enumerate(batch.rows) for draw in r]
        found = [(row, draw, reader.read(draw, self._sample)) for row, draw in uses]
        read = [(row, draw, sample) for row, draw, sample in found if sample is not None]
        if uses and not read and reader.endless:
            raise reader.broken()
        if read:
            self._fill(arrays, [(row, draw) for row, draw, _ in read], [s for *_, s in read])
        return arrays

    def empty(self, bucket: int, num_rows: int) -> Arrays:
        """Arrays of a batch without records."""
        shape = (num_rows, self.max_length)
        zeros = {name: np.zeros(shape, np.int32) for name in ("ids", "segment_ids", "positions")}
        kinds = np.full(shape, interleave.PADDING, np.int32)
        targets = np.full(shape, interleave.IGNORED, np.int32)
        return zeros | {"kinds": kinds, "targets": targets}

    def _sample(self, record: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        text, speech = record["text_tokens"], record["speech_tokens"]
        if not len(text) or not len(speech):
            raise InputError(f"{len(text)} text and {len(speech)} speech tokens")
        if speech.min() < 0 or speech.max() >= self.codebook_size:
            raise InputError(
                f"speech tokens from {speech.min()} to {speech.max()}; codebook_size="
                f"{self.codebook_size} allows 0 to {self.codebook_size - 1}"
            )
        return {"text": text, "speech": speech, "draw": random.random()}

    def _fill(
        self, arrays: Arrays, places: Sequence[tuple[int, Draw]], samples: Sequence[dict[str, Any]]
    ) -> None:
        text, num_text = _padded([sample["text"] for sample in samples])
        speech, num_speech = _padded([sample["speech"] for sample in samples])
        draws = np.asarray([sample["draw"] for sample in samples])
        bistream = interleave.choose_bistream(draws, num_text, num_speech, self.ratio)
        layout = interleave.interleave(
            text,
            num_text,
            speech,
            num_speech,
            bistream & self.bistream,
            codebook_size=self.codebook_size,
            ratio=self.ratio,
            xp=np,
        )
        lengths = np.asarray(layout.lengths).tolist()
        used, count = np.zeros((2, len(arrays["ids"])), np.int64)
        for i, ((row, draw), length) in enumerate(zip(places, lengths, strict=True)):
            here = row, slice(used[row], used[row] + length)
            for name in ("ids", "kinds", "targets"):
                arrays[name][here] = getattr(layout, name)[i, :length]
            arrays["positions"][here] = np.arange(length)
            arrays["records"][row, count[row]] = number_of(draw)
            used[row], count[row] = used[row] + length, count[row] + 1
            arrays["segment_ids"][here] = count[row]


def _padded(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several lengths -> ([n, longest] int32, [n] int32 lengths)."""
    lengths = np.asarray([len(row) for row in rows], np.int32)
    table = np.zeros((len(rows), lengths.max()), np.int32)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table, lengths
