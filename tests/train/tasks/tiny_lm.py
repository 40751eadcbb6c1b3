"""The smallest language model that trains, and packed batches for it."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.ops.interleave import IGNORED, PADDING
from cosyjax.train.task import Params, Task

TINY = TextSpeechLMConfig(
    *(2, 12, 4, 2, 4, 20),
    rope_theta=100.0,
    text_vocab_size=30,
    codebook_size=27,
    mix_ratio=(2, 4),
    scan_layers=True,
)


_lay_out = jax.jit(functools.partial(text_speech_lm.lay_out, TINY))


def sequence(seed: int, num_text: int, num_speech: int, bistream: bool = False) -> dict[str, Any]:
    """One sequence [L] of drawn tokens: ids, kinds, targets."""
    stream = np.random.default_rng(seed)
    text = stream.integers(0, TINY.text_vocab_size, (1, num_text), dtype=np.int32)
    speech = stream.integers(0, TINY.codebook_size, (1, num_speech), dtype=np.int32)
    sizes = np.array([num_text], np.int32), np.array([num_speech], np.int32)
    given = (text, sizes[0], speech, sizes[1])
    layout = _lay_out(*given, bistream=np.array([bistream]))
    length = int(layout.lengths[0])
    names = ("ids", "kinds", "targets")
    return {name: np.asarray(getattr(layout, name))[0, :length] for name in names}


def pack(rows: list[list[dict[str, Any]]], length: int) -> dict[str, np.ndarray]:
    """Rows of sequences, one after the other, padded to `length`."""
    empty = {"ids": 0, "kinds": PADDING, "targets": IGNORED, "segment_ids": 0, "positions": 0}
    batch = {name: np.full((len(rows), length), fill, np.int32) for name, fill in empty.items()}
    for row, sequences in enumerate(rows):
        start = 0
        for number, one in enumerate(sequences, start=1):
            cut = slice(start, start + len(one["ids"]))
            for name, values in one.items():
                batch[name][row, cut] = values
            batch["segment_ids"][row, cut] = number
            batch["positions"][row, cut] = np.arange(len(one["ids"]))
            start = cut.stop
    return batch


def draw(task: Task, seed: int = 0) -> Params:
    """Fresh parameters of a task, unboxed."""
    return jax.jit(lambda key: nn.meta.unbox(task.init(key)))(jax.random.key(seed))


def fit(
    task: Task, params: Params, batch: Any, rate: float, steps: int, seed: int = 0
) -> tuple[Params, list[float]]:
    """Takes Adam steps on one batch with one key; returns the parameters and every loss."""
    (turn,), optimizer = task.turns(), optax.adam(rate)
    key = jax.random.key(seed)

    def step(own: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        loss_fn = lambda own: turn.loss({**params, turn.group: own}, batch, key)[0]
        loss, grads = jax.value_and_grad(loss_fn)(own)
        updates, state = optimizer.update(grads, state, own)
        return optax.apply_updates(own, updates), state, loss

    step, own, losses = jax.jit(step), params[turn.group], []
    state = jax.jit(optimizer.init)(own)
    for _ in range(steps):
        own, state, loss = step(own, state)
        losses.append(float(loss))
    return {**params, turn.group: own}, losses
