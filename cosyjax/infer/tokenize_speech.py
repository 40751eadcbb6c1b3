"""Whole recordings to speech tokens: bucketed lengths, and windows for more than 30 s."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer.buckets import bucket, pad_to
from cosyjax.models.speech_tokenizer import SpeechTokenizer, num_tokens

# Mel frames at 100 Hz. Recordings of up to one window go through in one piece.
WINDOW_FRAMES = 3000
STRIDE_FRAMES = 2600  # windows overlap by 4 s
DROPPED_TOKENS = 50  # 2 s at each side where two windows meet
BUCKETS = (100, 200, 300, 400, 600, 800, 1000, 1200, 1600, 2000, 2500, WINDOW_FRAMES)
WINDOWS_PER_CALL = 4  # bounds the memory of long recordings


def tokenize_speech(
    model: SpeechTokenizer, params: Any, mel: Any, num_frames: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Turns log-mels into speech tokens; recordings above 30 s go through overlapping windows.

    Args:
      model: the tokenizer.
      params: its parameters.
      mel: [B, F, M] log-mel at 100 Hz.
      num_frames: [B] valid frames.

    Returns:
      tokens: [B, T] int32, zero beyond a row's count; T is the largest count.
      counts: [B] int32 tokens per row: a quarter of the frames, rounded up. Where a last window
        has under 2 s, the 2 s at the windows' meeting are lost, as in the official code.

    Raises:
      InputError: shapes that do not fit, or a length beyond the array.
    """
    mel, num_frames = np.asarray(mel), np.asarray(num_frames)
    shapes.check(mel, "B F M", "mel", M=model.config.num_mels)
    shapes.check(num_frames, "B", "num_frames", B=mel.shape[0])
    if num_frames.size and not 0 <= num_frames.min() <= num_frames.max() <= mel.shape[1]:
        raise InputError(f"num_frames={num_frames.tolist()} must lie within 0..{mel.shape[1]}")
    longest = int(num_frames.max(initial=0))
    if longest > WINDOW_FRAMES:
        rows = _tokenize_windows(model, params, mel, num_frames)
    else:
        size = bucket(longest, BUCKETS, "mel frames")
        found = _tokens(model, params, _fit(mel, size), jnp.asarray(num_frames, jnp.int32))
        rows = [row[: num_tokens(int(n))] for row, n in zip(np.asarray(found), num_frames)]
    return _stack(rows)


@functools.partial(jax.jit, static_argnames="model")
def _tokens(model: SpeechTokenizer, params: Any, mel: jax.Array, lengths: jax.Array) -> jax.Array:
    return model.apply({"params": params}, mel, lengths, method="tokens")[0]


def _fit(mel: np.ndarray, size: int) -> np.ndarray:
    """[..., F, M] cut or padded with zeros to `size` frames."""
    return pad_to(mel[..., :size, :], size, axis=mel.ndim - 2)


def _stack(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.asarray([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), counts.max(initial=0)), np.int32)
    for target, row in zip(tokens, rows):
        target[: len(row)] = row
    return tokens, counts


def window_starts(length: int) -> range:
    """First frames of the windows of a recording: one window up to 30 s, then every 26 s."""
    return range(0, length, STRIDE_FRAMES) if length > WINDOW_FRAMES else range(1)


def _tokenize_windows(
    model: SpeechTokenizer, params: Any, mel: np.ndarray, num_frames: np.ndarray
) -> list[np.ndarray]:
    """All windows of all rows as one batch, then the pieces of a row joined."""
    pieces: list[np.ndarray] = []
    for row, length in zip(mel, num_frames.tolist()):
        for start in window_starts(length):
            pieces.append(row[start : min(start + WINDOW_FRAMES, length)])
    found = iter(_run_windows(model, params, pieces))
    rows = []
    for length in num_frames.tolist():
        rows.append(join_windows([next(found) for _ in window_starts(length)]))
    return rows


def _run_windows(model: SpeechTokenizer, params: Any, pieces: list[np.ndarray]) -> list[np.ndarray]:
    tokens: list[np.ndarray] = []
    # One batch size for all calls: the last one is filled up with empty windows.
    size = min(WINDOWS_PER_CALL, len(pieces))
    for first in range(0, len(pieces), size):
        group = pieces[first : first + size]
        lengths = np.asarray([len(piece) for piece in group] + [0] * (size - len(group)), np.int32)
        mel = np.stack([_fit(piece, WINDOW_FRAMES) for piece in group])
        found = np.asarray(_tokens(model, params, pad_to(mel, size), jnp.asarray(lengths)))
        tokens += [row[: num_tokens(len(piece))] for row, piece in zip(found, group)]
    return tokens


def join_windows(windows: list[np.ndarray]) -> np.ndarray:
    """Joins the tokens of overlapping windows: 2 s fall away on each side of a meeting."""
    last = len(windows) - 1
    kept = [
        tokens[DROPPED_TOKENS * (i > 0) : len(tokens) - DROPPED_TOKENS * (i < last)]
        for i, tokens in enumerate(windows)
    ]
    return np.concatenate(kept)
