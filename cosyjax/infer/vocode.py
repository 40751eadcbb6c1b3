"""Mel to wav, compiled once per bucket of lengths."""

from __future__ import annotations

import functools
from typing import Any

import jax

from cosyjax import shapes
from cosyjax.models.hift import HiFT
from cosyjax.ops import source


@functools.partial(jax.jit, static_argnames="model")
def mel_to_wav(
    model: HiFT, params: Any, mel: jax.Array, num_frames: jax.Array, key: jax.Array
) -> jax.Array:
    """Speaks mels that are padded to one of a few lengths.

    Args:
      model: the vocoder; with `fold_weight_norm` applied it skips computing its kernels.
      params: its unboxed parameters.
      mel: [B, F, 80] log-mel; padding may hold anything. Each F and B compiles once.
      num_frames: [B] int32 valid frames.
      key: one key for all rows alike, or [B] keys. Noise is a function of key and frame.

    Returns:
      [B, 480 * F] float32 at 24 kHz, zero beyond each row's end.
    """
    shapes.check(mel, f"B F {model.config.num_mels}", "mel")
    config = model.config
    noise = source.frame_noise(
        key,
        mel.shape[1],
        samples_per_frame=config.samples_per_frame,
        channels=config.num_harmonics + 1,
    )
    wav: jax.Array = model.apply({"params": params}, mel, num_frames, noise)  # type: ignore
    return wav
