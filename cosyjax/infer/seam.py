"""The seam between two chunks of audio: a source that goes on, and a cross-fade."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.models.vocoder import Vocoder
from cosyjax.ops import source


@functools.partial(jax.jit, static_argnames="model")
def speak_frames(
    model: Vocoder,
    params: Any,
    mel: jax.Array,
    num_frames: jax.Array,
    cached: tuple[jax.Array, jax.Array],
    *,
    key: jax.Array | None,
    first_frame: jax.Array | int,
) -> tuple[jax.Array, jax.Array]:
    """Speaks padded frames; first and later chunks share one program per length.

    Args:
      model: the vocoder.
      params: its parameters.
      mel: [B, F, M]; padding may hold anything.
      num_frames: int [B], valid frames.
      cached: (source [B, n] of the frames that the mel begins with, bool [B], False where there
        was no chunk before and the source is to be ignored).
      key: of the noise; None for none.
      first_frame: absolute number of the first frame.

    Returns:
      samples and source, [B, F * 480] each.
    """
    noise = None
    if key is not None:
        noise = source.frame_noise(
            key,
            mel.shape[1],
            samples_per_frame=model.config.samples_per_frame,
            channels=model.config.noise_channels,
            first_frame=first_frame,
        )
    variables: Any = {"params": params}
    vocoder: Any = model.bind(variables)
    before, goes_on = cached
    excitation = vocoder.source(vocoder.f0(mel, num_frames), noise, num_frames)
    head = jnp.where(goes_on[:, None], before, excitation[:, : before.shape[1]])
    excitation = excitation.at[:, : before.shape[1]].set(head)
    return vocoder.decode(mel, excitation, num_frames), excitation


def cross_fade(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Fades from the samples held back [n] into the start of the next ones [N].

    The halves of a Hamming window add up to 1.08, not 1: the seam is 0.67 dB louder, as it is in
    the official code.
    """
    num_samples = len(before)
    window = np.hamming(2 * num_samples)
    seam = after[:num_samples] * window[:num_samples] + before * window[num_samples:]
    return np.concatenate([seam.astype(np.float32), after[num_samples:]])
