"""Mel to wav: whole, compiled per bucket of lengths, or as it comes, per size of chunk."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer.seam import speak_frames
from cosyjax.models.causal_hift import CausalHiFT, VocoderState
from cosyjax.models.vocoder import Vocoder
from cosyjax.ops import source


def mel_to_wav(
    model: Vocoder, params: Any, mel: jax.Array, num_frames: jax.Array, key: jax.Array
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


def init_stream(model: Vocoder, batch: int) -> VocoderState:
    """Returns the state of `batch` streams before their start.

    Raises:
      InputError: a vocoder that is not causal.
    """
    if not isinstance(model, CausalHiFT):
        raise InputError(
            "this vocoder is not causal, so it cannot stream exactly: speak with `mel_to_wav`, or "
            "train one with configs/vocoder.py:causal=true"
        )
    state: Any = model.apply({}, batch, method="init_state")
    return state


@functools.partial(jax.jit, static_argnames=("model", "last"), donate_argnames="state")
def speak_chunk(
    model: CausalHiFT,
    params: Any,
    mel: jax.Array,
    state: VocoderState,
    *,
    key: jax.Array,
    num_frames: jax.Array | None = None,
    last: bool = False,
) -> tuple[jax.Array, VocoderState]:
    """Speaks what a stream's next frames allow; see `CausalHiFT.step`.

    With the same key the chunks give, after `lookahead` frames of silence, what `mel_to_wav` gives
    for all frames at once.

    Args:
      model: the causal vocoder, folded: `fold_weight_norm` is what makes F0 the same to the bit.
      params: its unboxed parameters.
      mel: [B, C, 80] log-mel. Each C and B compiles once.
      state: from `init_stream` or the chunk before; its memory is taken.
      key: one key for all rows alike, or [B] keys.
      num_frames: [B] int32, the frames that each row really hears; None means C.
      last: nothing will follow, so the frames held back are spoken too.

    Returns:
      [B, C * 480] float32, or [B, (C + lookahead) * 480] where `last`, and the state.
    """
    cfg = model.config
    noise = source.frame_noise(
        key,
        mel.shape[1] + cfg.lookahead * last,
        samples_per_frame=cfg.samples_per_frame,
        channels=cfg.noise_channels,
        first_frame=state.position - cfg.lookahead,
    )
    spoken: Any = model.apply(
        {"params": params},
        mel,
        state,
        noise=noise,
        num_frames=num_frames,
        last=last,
        method="step",
    )
    return spoken
