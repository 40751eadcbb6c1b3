"""The sine source of a vocoder: harmonics of F0 whose phase never drifts.

Neural source-filter model (Wang et al. 2019, arXiv:1904.12088) as the official 24 kHz vocoder has
it: F0 is held over a frame, the phase of each harmonic is known at the frames' centres and runs
linearly between them, before the first and after the last centre it stands still.

Differs: the official code sums phases in radians, which float32 holds to 0.01 rad after a minute;
here a phase is an unsigned 32-bit part of a turn. Its overflow is a whole turn, so sums are exact,
and the same however a call is cut. A random phase at the start, which the official code draws,
never reaches its output and is not drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops.trig import sin_turns


class Start(NamedTuple):
    """What came before the first frame of a call that is part of something longer."""

    phase: jax.Array  # [B, H] uint32 at the centre of the frame before, from `phase_after`
    goes_on: jax.Array  # [B] bool; False where there was no such frame, and the phase is zero


def phase_steps(f0: jax.Array, num_harmonics: int, sample_rate_hz: int) -> jax.Array:
    """Turns per sample of the fundamental and its harmonics.

    Args:
      f0: [B, F] Hz, not negative.
      num_harmonics: overtones beside the fundamental.
      sample_rate_hz: of the audio.

    Returns:
      [B, F, num_harmonics + 1] uint32, in units of 2**-32 turns and always even, so that half a
      step is exact too.
    """
    multiples = jnp.arange(1, num_harmonics + 2, dtype=jnp.float32)
    hz = f0[..., None] * multiples
    # XLA would multiply by the reciprocal of one divisor for all, which is off by a unit in the
    # last place in every eighth case; that adds up to 0.01 rad in ten seconds.
    turns = hz / jax.lax.optimization_barrier(jnp.full_like(hz, sample_rate_hz))
    turns = turns - jnp.floor(turns)
    return (turns * np.float32(2.0**31)).astype(jnp.uint32) << 1


def phase_after(
    start: jax.Array, steps: jax.Array, samples_per_frame: int, num_frames: jax.Array
) -> jax.Array:
    """Phase [B, H] at the centre of frame `num_frames` [B] - 1, `start` where that is none."""
    inside = (jnp.arange(steps.shape[1]) < num_frames[:, None])[..., None]
    run = jnp.sum(jnp.where(inside, steps, 0), axis=1, dtype=jnp.uint32)
    return start + run * np.uint32(samples_per_frame)


def harmonic_phase(
    steps: jax.Array, samples_per_frame: int, start: Start | None = None
) -> jax.Array:
    """Phase of every sample.

    Args:
      steps: [B, F, H] uint32 from `phase_steps`; zero beyond a row's true end.
      samples_per_frame: even.
      start: what came before; None for nothing.

    Returns:
      [B, F * samples_per_frame, H] uint32 parts of a turn.
    """
    batch, num_frames, harmonics = steps.shape
    half = samples_per_frame // 2
    centre = jnp.cumsum(steps * np.uint32(samples_per_frame), axis=1, dtype=jnp.uint32)
    base, step = centre[:, 0], jnp.zeros_like(steps[:, 0])
    if start is not None:
        centre = centre + start.phase[:, None]
        goes_on = start.goes_on[:, None]
        base = jnp.where(goes_on, start.phase, base)
        step = jnp.where(goes_on, steps[:, 0], step)
    # Between the centres of frames i - 1 and i the phase runs at the step of frame i.
    first_half_base = jnp.concatenate([base[:, None], centre[:, :-1]], axis=1)
    first_half_step = steps.at[:, 0].set(step)
    second_half_step = jnp.pad(steps[:, 1:], ((0, 0), (0, 1), (0, 0)))
    odd = 2 * jnp.arange(samples_per_frame, dtype=jnp.uint32)[:, None] + 1

    def run(base: jax.Array, step: jax.Array, half_samples: jax.Array) -> jax.Array:
        return base[:, :, None] + (step >> 1)[:, :, None] * half_samples

    rising = run(first_half_base, first_half_step, odd[half:])
    falling = run(centre, second_half_step, odd[:half])
    phase = jnp.concatenate([rising, falling], axis=2)
    return phase.reshape(batch, num_frames * samples_per_frame, harmonics)


def sine_waves(
    f0: jax.Array,
    noise: jax.Array,
    *,
    num_harmonics: int,
    sample_rate_hz: int,
    amplitude: float,
    noise_std: float,
    voiced_threshold_hz: float,
    start: Start | None = None,
) -> jax.Array:
    """Harmonics in voiced frames, noise everywhere and more of it in unvoiced ones.

    Args:
      f0: [B, F] Hz; zero beyond a row's true end.
      noise: [B, N, num_harmonics + 1] standard normal, N a multiple of F; see `frame_noise`.
      num_harmonics: overtones beside the fundamental.
      sample_rate_hz: of the audio.
      amplitude: of a sine.
      noise_std: of the noise in voiced frames; in unvoiced ones it is amplitude / 3.
      voiced_threshold_hz: a frame is voiced where f0 exceeds it.
      start: what came before; None for nothing.

    Returns:
      [B, N, num_harmonics + 1] float32.
    """
    batch, num_frames = f0.shape
    samples_per_frame = noise.shape[1] // num_frames
    steps = phase_steps(f0, num_harmonics, sample_rate_hz)
    sines = amplitude * sin_turns(harmonic_phase(steps, samples_per_frame, start))
    voiced = jnp.repeat(f0 > voiced_threshold_hz, samples_per_frame, axis=1)[..., None]
    return jnp.where(voiced, sines, 0.0) + jnp.where(voiced, noise_std, amplitude / 3.0) * noise


def frame_noise(
    key: jax.Array,
    num_frames: int,
    *,
    samples_per_frame: int,
    channels: int,
    first_frame: jax.Array | int = 0,
) -> jax.Array:
    """Standard normal noise as a function of the key and the absolute frame alone.

    Args:
      key: one key for all rows alike, or [B] keys, one a row.
      num_frames: frames to draw.
      samples_per_frame: samples of a frame.
      channels: values of a sample.
      first_frame: absolute index of the first frame, one for all rows or [B] int32.

    Returns:
      [B or 1, num_frames * samples_per_frame, channels] float32.
    """
    keys, first = jnp.atleast_1d(key), jnp.atleast_1d(jnp.asarray(first_frame, jnp.int32))
    rows = max(keys.shape[0], first.shape[0])
    keys = jnp.broadcast_to(keys, (rows,))
    indices = jnp.broadcast_to(first[:, None] + jnp.arange(num_frames), (rows, num_frames))

    def frame(key: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, index), (samples_per_frame, channels))

    noise = jax.vmap(jax.vmap(frame, (None, 0)))(keys, indices)
    return noise.reshape(rows, num_frames * samples_per_frame, channels)
