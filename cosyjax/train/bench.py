"""What `cosyjax bench train` times: steps of the language model, and features of recordings."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from cosyjax.data.packing import first_fit
from cosyjax.eval.cases import Case, Work
from cosyjax.eval.random_bundle import random_params
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.compute import ComputePlan
from cosyjax.infer.stages import make_stages
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.ops.interleave import PADDING, SPEECH
from cosyjax.shapes import TOKENIZER_RATE_HZ
from cosyjax.train.config import TrainConfig
from cosyjax.train.extract import extract_batch
from cosyjax.train.state import make_init, make_optimizers
from cosyjax.train.step import make_step
from cosyjax.train.tasks.lm import LMTask

ROW = 1024  # positions of a packed row
ROWS = 4  # rows of a batch
NUM_SEQUENCES = 80
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

    return run


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
