"""Mel to wav, compiled once per bucket of lengths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.infer.seam import speak_frames
from cosyjax.models.hift import HiFT


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
    batch = mel.shape[0]
    nothing_before = (jnp.zeros((batch, 0), jnp.float32), jnp.zeros((batch,), bool))
    wav, _ = speak_frames(model, params, mel, num_frames, nothing_before, key=key, first_frame=0)
    return wav
