"""Streams of a vocoder that is not causal: each call hears some frames again, and some ahead.

A frame is spoken once `ahead` frames after it are known, from a window that begins `behind` frames
before it. Where both cover the receptive field the stream is what would have been said whole. With
less, two calls say the same sound a little differently, and one fades over into the other.

What sums up is not left to the window: F0 is kept once all frames that it depends on are known, and
with it the phase at the window's start, so no error of a short overlap lasts. Noise follows from
the key and the absolute frame.

Differs: the official code hears 8 frames again and none ahead, keeps the source of the former call
with whatever phase it had, and fades with a gain of 1.08 (`controller="official"`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.models.hift import HiFT, HiFTConfig
from cosyjax.models.hift_field import receptive_field
from cosyjax.ops import source
from cosyjax.ops.rows import append, shift_left


@dataclasses.dataclass(frozen=True)
class OverlapConfig:
    """How much a vocoder that is not causal hears twice; of no effect on one that is causal."""

    overlap: int = -1  # mel frames before and after those spoken; -1 for the receptive field
    fade: int = 60  # samples from one call's sound to the next one's, where overlap is less

    def __post_init__(self) -> None:
        if self.overlap < -1:
            raise InputError(
                f"overlap={self.overlap} must be at least 0 mel frames, or -1 for as many as a "
                "frame depends on"
            )
        if self.fade < 0:
            raise InputError(f"fade={self.fade} must be at least 0 samples")


class Sizes(NamedTuple):
    """What a stream's windows are made of."""

    behind: int  # mel frames heard again before those spoken
    ahead: int  # mel frames heard before they are spoken
    fade: int  # samples
    kept: int  # mel frames in the state


def sizes(config: HiFTConfig, overlap: OverlapConfig) -> Sizes:
    """Returns what an overlap means for a vocoder; no side is longer than its receptive field."""
    field, wanted = receptive_field(config), overlap.overlap
    if wanted < 0:
        wanted = max(field)
    behind, ahead = min(wanted, field.behind), min(wanted, field.ahead)
    fade = 0 if is_exact(config, overlap) else min(overlap.fade, ahead * config.samples_per_frame)
    # F0 is final `f0_layers` frames late, and needs as many frames before it.
    return Sizes(behind, ahead, fade, max(behind + ahead, 2 * config.f0_layers))


def is_exact(config: HiFTConfig, overlap: OverlapConfig) -> bool:
    """True where a stream equals the whole."""
    return overlap.overlap < 0 or overlap.overlap >= max(receptive_field(config))


def work_ratio(config: HiFTConfig, overlap: OverlapConfig, chunk: int) -> float:
    """Frames vocoded per frame spoken, in calls of `chunk` mel frames."""
    size = sizes(config, overlap)
    return (size.behind + size.ahead + chunk) / chunk


class OverlapState(struct.PyTreeNode):
    """What the vocoder remembers of a stream, whose size never changes; rows are independent."""

    position: jax.Array  # [B] int32 mel frames heard
    spoken: jax.Array  # [B] int32 mel frames spoken
    mel: jax.Array  # [B, kept, M] the last frames heard, from the first entry on
    f0: jax.Array  # [B, kept] Hz of these frames; of the last `f0_layers` not yet final
    phase: jax.Array  # [B, num_harmonics + 1] uint32 at the centre of the frame before them
    held: jax.Array  # [B, fade] what the former call said after the frames spoken


def init_overlap(config: HiFTConfig, overlap: OverlapConfig, batch: int) -> OverlapState:
    """Returns the state of `batch` streams before their start."""
    size = sizes(config, overlap)
    return OverlapState(
        position=jnp.zeros((batch,), jnp.int32),
        spoken=jnp.zeros((batch,), jnp.int32),
        mel=jnp.zeros((batch, size.kept, config.num_mels), jnp.float32),
        f0=jnp.zeros((batch, size.kept), jnp.float32),
        phase=jnp.zeros((batch, config.num_harmonics + 1), jnp.uint32),
        held=jnp.zeros((batch, size.fade), jnp.float32),
    )


@functools.partial(jax.jit, static_argnames=("model", "overlap"), donate_argnames="state")
def speak_overlapped(
    model: HiFT,
    params: Any,
    mel: jax.Array,
    state: OverlapState,
    *,
    overlap: OverlapConfig,
    keys: jax.Array,
    num_frames: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, jax.Array, OverlapState]:
    """Speaks rows of which each begins, rests and ends on its own; compiled once per (B, C).

    Args:
      model: the vocoder.
      params: its parameters.
      mel: [B, C, M] log-mel; beyond `num_frames` anything, NaN too.
      state: from `init_overlap` or the call before, with the same `overlap`; its memory is taken.
      overlap: what is heard twice.
      keys: [B], of the noise.
      num_frames: [B] int32 in 0..C, the frames that each row hears.
      last: [B] bool, the row ends with them, so the frames held back are spoken too.

    Returns:
      wav [B, (C + ahead) * 480]: what a row says, from its first sample on, then zeros; [B] int32,
      how many samples those are; and the state.
    """
    cfg, size = model.config, sizes(model.config, overlap)
    shapes.check(mel, f"B C {cfg.num_mels}", "mel", B=state.position.shape[0])
    heard = state.position + num_frames
    spoken = jnp.maximum(jnp.where(last, heard, heard - size.ahead), state.spoken)
    window = _hear(model, params, mel, state, num_frames)
    total = (mel.shape[1] + size.ahead) * cfg.samples_per_frame

    def speak() -> jax.Array:
        wav = _speak_window(model, params, window, state, size=size, keys=keys)
        return _fade_in(wav, state)[:, :total]

    # Nothing is known yet of rows that have just begun, and nothing is asked of those that rest.
    silent = jnp.zeros((mel.shape[0], total), jnp.float32)
    wav = jax.lax.cond(jnp.any(spoken > state.spoken), speak, lambda: silent)
    count = (spoken - state.spoken) * cfg.samples_per_frame
    beyond = shift_left(wav, count)[:, : size.fade]
    held = jnp.where(count[:, None] > 0, beyond, state.held)
    after = _remember(cfg, window, state).replace(position=heard, spoken=spoken, held=held)
    return jnp.where(jnp.arange(total) < count[:, None], wav, 0.0), count, after


class Window(NamedTuple):
    """The frames kept and those heard now."""

    mel: jax.Array  # [B, kept + C, M]; a row's first frame is entry 0
    f0: jax.Array  # [B, kept + C] Hz
    steps: jax.Array  # [B, kept + C, H] uint32, see `source.phase_steps`
    num_frames: jax.Array  # [B] int32 valid ones
    first: jax.Array  # [B] int32 absolute number of the first one


def _hear(
    model: HiFT, params: Any, mel: jax.Array, state: OverlapState, num_frames: jax.Array
) -> Window:
    """Puts new frames behind those kept; F0 that is final stays as it is."""
    cfg, kept = model.config, state.mel.shape[1]
    before = jnp.minimum(state.position, kept)
    inside = (jnp.arange(mel.shape[1]) < num_frames[:, None])[..., None]
    joined = append(state.mel, jnp.where(inside, mel, 0.0), before)
    count = before + num_frames
    predicted: Any = model.apply({"params": params}, joined, count, method="f0")
    final = jnp.arange(kept) < before[:, None] - cfg.f0_layers
    f0 = predicted.at[:, :kept].set(jnp.where(final, state.f0, predicted[:, :kept]))
    steps = source.phase_steps(f0, cfg.num_harmonics, cfg.sample_rate_hz)
    return Window(joined, f0, steps, count, state.position - before)


def _speak_window(
    model: HiFT, params: Any, window: Window, state: OverlapState, *, size: Sizes, keys: jax.Array
) -> jax.Array:
    """Samples [B, N] from the first one not yet spoken on, to the last one heard."""
    cfg = model.config
    begin = jnp.maximum(state.spoken - size.behind, 0)
    skipped = begin - window.first
    num_frames = window.mel.shape[1] - size.kept + size.behind + size.ahead
    cut = lambda x: shift_left(x, skipped)[:, :num_frames]
    phase = source.phase_after(state.phase, window.steps, cfg.samples_per_frame, skipped)
    noise = source.frame_noise(
        keys,
        num_frames,
        samples_per_frame=cfg.samples_per_frame,
        channels=cfg.noise_channels,
        first_frame=begin,
    )
    vocoder: Any = model.bind({"params": params})
    lengths = window.num_frames - skipped
    start = source.Start(phase, begin > 0)
    excitation = vocoder.source(cut(window.f0), noise, lengths, start)
    wav = vocoder.decode(cut(window.mel), excitation, lengths)
    return shift_left(wav, (state.spoken - begin) * cfg.samples_per_frame)


def _fade_in(wav: jax.Array, state: OverlapState) -> jax.Array:
    """Goes over from what was held into the start of [B, N]; both are the same sound."""
    num = state.held.shape[1]
    if num == 0:
        return wav
    # sin**2, whose counterpart cos**2 it adds up to 1 with: a seam is as loud as its sides.
    rise = jnp.asarray(np.sin(0.5 * np.pi * (np.arange(num) + 0.5) / num) ** 2, jnp.float32)
    rise = jnp.where((state.spoken > 0)[:, None], rise, 1.0)
    return wav.at[:, :num].set(state.held + rise * (wav[:, :num] - state.held))


def _remember(config: HiFTConfig, window: Window, state: OverlapState) -> OverlapState:
    """Keeps the last frames and the phase before them."""
    kept = state.mel.shape[1]
    gone = jnp.maximum(window.num_frames - kept, 0)
    return state.replace(
        mel=shift_left(window.mel, gone)[:, :kept],
        f0=shift_left(window.f0, gone)[:, :kept],
        phase=source.phase_after(state.phase, window.steps, config.samples_per_frame, gone),
    )
