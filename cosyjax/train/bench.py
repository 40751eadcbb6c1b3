"""What `cosyjax bench train` times: steps of the language model, and features of recordings."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax.data.builder import write_part
from cosyjax.data.config import SourceConfig
from cosyjax.data.lm import LMData
from cosyjax.data.packing import first_fit
from cosyjax.data.records import FINISHED, VERSION, part_folder
from cosyjax.eval.cases import Case, Work
from cosyjax.eval.random_bundle import random_params
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.compute import ComputePlan
from cosyjax.infer.stages import make_stages
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.ops.interleave import PADDING, SPEECH
from cosyjax.shapes import FRAMES_PER_TOKEN, NUM_MELS, TOKEN_RATE_HZ, TOKENIZER_RATE_HZ
from cosyjax.train.config import TrainConfig
from cosyjax.train.extract import extract_batch
from cosyjax.train.state import make_init, make_optimizers
from cosyjax.train.step import make_step
from cosyjax.train.tasks.lm import LMTask

ROW = 512  # positions of a packed row: attention costs the square of it
ROWS = 8  # rows of a batch
NUM_SEQUENCES = 95
NUM_CLIPS = 8
CLIP_SECONDS = 4
SMALL = TextSpeechLMConfig(6, 384, 6, 2, 64, 1024, text_vocab_size=4096, scan_layers=True)


def sequence_lengths() -> np.ndarray:
    """[NUM_SEQUENCES] text and speech tokens of read sentences of 1 to 12 s."""
    stream = np.random.default_rng(0)
    seconds = np.clip(stream.lognormal(1.3, 0.5, NUM_SEQUENCES), 1.0, 12.0)
    return (seconds * 25 + seconds * 4 + 2).astype(np.int64)


def packed_batches(lengths: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Random tokens packed to rows of ROW positions, ROWS rows a batch."""
    order = np.sort(lengths)[::-1]
    rows = first_fit(order, ROW)
    num_rows = -(-(int(rows.max()) + 1) // ROWS) * ROWS
    stream = np.random.default_rng(1)
    shape = (num_rows, ROW)
    made = {name: np.zeros(shape, np.int32) for name in ("ids", "segment_ids", "positions")}
    made |= {"kinds": np.full(shape, PADDING, np.int32), "targets": np.full(shape, -1, np.int32)}
    for row in range(num_rows):
        start = 0
        for segment, length in enumerate(order[rows == row], 1):
            here = (row, slice(start, start + length))
            made["ids"][here] = stream.integers(0, SMALL.codebook_size, length)
            made["targets"][here] = made["ids"][here]
            made["kinds"][here], made["segment_ids"][here] = SPEECH, segment
            made["positions"][here] = np.arange(length)
            start += length
    cut = range(0, num_rows, ROWS)
    return [{name: array[i : i + ROWS] for name, array in made.items()} for i in cut]


def _train_lm(config: BundleConfig, plan: ComputePlan) -> Work:
    del config
    task = LMTask(dataclasses.replace(SMALL, compute=plan.lm))
    run_config = TrainConfig(stage="lm", task=task, data=None)
    optimizers = make_optimizers(task, run_config)
    step = jax.jit(make_step(task, optimizers, seed=0), donate_argnums=0)
    init, _ = make_init(task, run_config, optimizers)
    held = [jax.jit(init)(jax.random.key(0))]
    batches = packed_batches(sequence_lengths())

    def run() -> Any:
        for batch in batches:
            held[0], metrics = step(held[0], batch)
        return metrics["loss"]

    def advance(batch: dict[str, np.ndarray]) -> jax.Array:
        held[0], metrics = step(held[0], batch)
        return metrics["loss"]

    return Fed(run, advance)


@dataclasses.dataclass(frozen=True)
class Fed:
    """Work that can also be fed by the real pipeline, to see whether it has to wait."""

    run: Callable[[], Any]
    advance: Callable[[dict[str, np.ndarray]], Any]  # one step; returns before it is done

    def __call__(self) -> Any:
        return self.run()

    def data_wait(self, num_steps: int = 20) -> float:
        """The share of the time in which no step runs because the next batch is not there."""
        with tempfile.TemporaryDirectory() as folder:
            write_features(Path(folder), sequence_lengths())
            data = LMData(
                sources=(SourceConfig(folder),),
                max_length=ROW,
                batch_size=ROWS,
                ratio=SMALL.mix_ratio,
            )
            batches = iter(data.dataset("train", seed=0))
            # The first batches fill the queue and are no step's to wait for.
            before, waited_s = self.advance(_rows(next(batches))), 0.0
            start = time.perf_counter()
            for _ in range(num_steps):
                asked = time.perf_counter()
                rows = _rows(next(batches))
                waited_s += (time.perf_counter() - asked) * before.is_ready()
                loss = self.advance(rows)
                before.block_until_ready()
                before = loss
            before.block_until_ready()
            return waited_s / (time.perf_counter() - start)


def _rows(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: rows for name, rows in batch.items() if name != "records"}


def write_features(folder: Path, lengths: np.ndarray) -> None:
    """A data folder of random features as `cosyjax prepare` makes them, mel and pitch included."""
    stream = np.random.default_rng(2)

    def record(index: int, length: int) -> dict[str, Any]:
        num_text = max(length * 4 // 29, 1)
        tokens = stream.integers(0, SMALL.codebook_size, length - num_text, np.int32)
        num_frames = FRAMES_PER_TOKEN * tokens.size
        names = {"id": f"{index}", "text": "-", "speaker": "-", "lang": "en"}
        return names | {
            "text_tokens": stream.integers(0, SMALL.text_vocab_size, num_text, np.int32),
            "speech_tokens": tokens,
            "speaker_embedding": stream.standard_normal(192, np.float32),
            "mel": stream.standard_normal((num_frames, NUM_MELS), np.float32).astype(np.float16),
            "f0": np.zeros(num_frames, np.float32),
            "duration_s": tokens.size / TOKEN_RATE_HZ,
        }

    records = [record(index, int(length)) for index, length in enumerate(lengths)]
    write_part(part_folder(folder, "features", "train", (0, 1)), "features", records, {})
    summary = {"num_parts": 1, "version": VERSION, "features": {"splits": {"train": {}}}}
    (folder / FINISHED).write_text(json.dumps(summary))


def _extract(config: BundleConfig, plan: ComputePlan) -> Work:
    names = ("speech_tokenizer", "speaker_encoder")
    stages = make_stages(config, random_params(config, names), plan, names)
    num_samples = TOKENIZER_RATE_HZ * CLIP_SECONDS
    wav = 0.1 * np.random.default_rng(0).standard_normal((NUM_CLIPS, num_samples), np.float32)
    lengths = np.full(NUM_CLIPS, num_samples, np.int32)
    return lambda: extract_batch(stages, wav, lengths, TOKENIZER_RATE_HZ)


CASES = {
    "extract": Case(
        f"{NUM_CLIPS} clips of {CLIP_SECONDS} s: tokens, embedding, mel, pitch",
        _extract,
        ("speech_tokenizer", "speaker_encoder"),
        float(NUM_CLIPS * CLIP_SECONDS),
        "s audio",
    ),
    "train_lm": Case(
        f"{NUM_SEQUENCES} sequences, 6 layers of 384, AdamW",
        _train_lm,
        ("text_speech_lm",),
        float(sequence_lengths().sum()),
        "tokens",
    ),
}
