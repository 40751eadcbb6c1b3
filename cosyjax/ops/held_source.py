"""The sine source of a vocoder that streams: F0 held over a frame, the phase carried between calls.

As `ops.source`, with two changes. A frame's harmonics run at one step, so no sample depends on a
later frame. And the phase starts anew after an unvoiced frame, in which no sine is heard: what
small differences of F0 add up to is forgotten at every pause, however long the stream.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops.source import phase_steps
from cosyjax.ops.trig import sin_turns


def frame_phase(steps: jax.Array, voiced: jax.Array, start: jax.Array) -> jax.Array:
    """Phase at the borders of frames.

    Args:
      steps: [B, F, H] uint32, parts of a turn that each frame adds; the overflow is a whole turn.
      voiced: [B, F] bool.
      start: [B, H] uint32 phase before the first frame.

    Returns:
      [B, F + 1, H] uint32: entry i before frame i, the last one after all. Zero behind an
      unvoiced frame.
    """
    total = start[:, None] + jnp.cumsum(steps, axis=1, dtype=jnp.uint32)
    total = jnp.concatenate([start[:, None], total], axis=1)
    borders = jnp.arange(total.shape[1])
    anew = jnp.pad(~voiced, ((0, 0), (1, 0)))
    origin = jax.lax.cummax(jnp.where(anew, borders, 0), axis=1)[..., None]
    return jnp.where(origin > 0, total - jnp.take_along_axis(total, origin, axis=1), total)


def harmonic_sum(
    f0: jax.Array,
    start: jax.Array,
    weights: jax.Array,
    *,
    samples_per_frame: int,
    sample_rate_hz: int,
    voiced_threshold_hz: float,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the sines of F0 and its overtones; silence where unvoiced.

    Args:
      f0: [B, F] Hz, not negative.
      start: [B, H] uint32 phase of each harmonic before the first frame.
      weights: [H] of the fundamental and its overtones.
      samples_per_frame: of a frame of `f0`.
      sample_rate_hz: of the audio.
      voiced_threshold_hz: a frame is voiced where f0 exceeds it.

    Returns:
      [B, F * samples_per_frame] float32, and the phase [B, F + 1, H] from `frame_phase`. No
      gradient flows to `f0`.
    """
    voiced = f0 > voiced_threshold_hz
    f0 = jax.lax.stop_gradient(f0)
    steps = phase_steps(f0, weights.shape[0] - 1, sample_rate_hz)
    phase = frame_phase(steps * np.uint32(samples_per_frame), voiced, start)
    sample = jnp.arange(samples_per_frame, dtype=jnp.uint32)
    # Harmonic by harmonic, with the samples last: one pass over memory that vectorises.
    waves = [
        weights[h] * sin_turns(phase[:, :-1, h, None] + steps[:, :, h, None] * sample)
        for h in range(weights.shape[0])
    ]
    total = jnp.where(voiced[..., None], sum(waves[1:], waves[0]), 0.0)
    return total.reshape(f0.shape[0], -1), phase
