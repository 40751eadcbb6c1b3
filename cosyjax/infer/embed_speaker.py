"""Waveform to speaker embedding in one compiled program per length of the padded batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.models.speaker_encoder import SpeakerEncoder
from cosyjax.ops import fbank
from cosyjax.ops.stft import Array


def embed_speaker(
    model: SpeakerEncoder, params: Mapping[str, Any], wav_16k: Array, num_samples: Array
) -> jax.Array:
    """Returns the speaker embedding of each recording, not normalised.

    Args:
      model: the encoder; folding its norms first (`speaker_encoder.fold_batch_norm`) is faster.
      params: its parameters.
      wav_16k: [B, N] at 16 kHz, in [-1, 1]. Pad N to a few lengths: each is compiled once.
      num_samples: [B] valid samples; 400 (25 ms) is the least that means anything.

    Returns:
      [B, 192] float32. Padding and the other rows change nothing.

    Raises:
      InputError: N is below one frame.
    """
    shapes.check(wav_16k, "B N", "wav_16k")
    shapes.check(num_samples, "B", "num_samples", B=wav_16k.shape[0])
    least = fbank.KALDI_80.frame_samples
    if wav_16k.shape[1] < least:
        raise InputError(f"{wav_16k.shape[1]} samples at 16 kHz; at least {least} (25 ms) needed")
    return _embed(model, params, wav_16k, num_samples)


@functools.partial(jax.jit, static_argnames="model")
def _embed(
    model: SpeakerEncoder, params: Mapping[str, Any], wav: jax.Array, num_samples: jax.Array
) -> jax.Array:
    config = fbank.FbankConfig(num_mels=model.config.num_mels)
    lengths = fbank.num_frames(num_samples, config)
    features = fbank.subtract_mean(fbank.fbank(wav, num_samples, config=config), lengths)
    return jnp.asarray(model.apply({"params": params}, features, lengths))
