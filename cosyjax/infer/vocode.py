"""Mel to wav: whole, compiled per bucket of lengths, or as it comes, per size of chunk."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.infer.overlap import (
    OverlapConfig,
    OverlapState,
    init_overlap,
    sizes,
    speak_overlapped,
)
from cosyjax.infer.seam import speak_frames
from cosyjax.models.causal_hift import CausalHiFT, VocoderState
from cosyjax.models.hift import HiFT
from cosyjax.models.vocoder import Vocoder
from cosyjax.ops import source
from cosyjax.ops.rows import shift_left

StreamState = VocoderState | OverlapState


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


def init_stream(
    model: Vocoder, batch: int, overlap: OverlapConfig = OverlapConfig()
) -> StreamState:
    """Returns the state of `batch` streams before their start.

    Args:
      model: the vocoder.
      batch: rows.
      overlap: what a vocoder that is not causal hears twice; the same for every later call.
    """
    if isinstance(model, HiFT):
        return init_overlap(model.config, overlap, batch)
    state: Any = model.apply({}, batch, method="init_state")
    return state


def delay_frames(model: Vocoder, overlap: OverlapConfig = OverlapConfig()) -> int:
    """Mel frames that a stream hears before it speaks them."""
    if isinstance(model, HiFT):
        return sizes(model.config, overlap).ahead
    return model.config.lookahead


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


def speak_rows(
    model: Vocoder,
    params: Any,
    mel: jax.Array,
    state: StreamState,
    *,
    keys: jax.Array,
    num_frames: jax.Array,
    last: jax.Array,
    overlap: OverlapConfig = OverlapConfig(),
) -> tuple[jax.Array, jax.Array, StreamState]:
    """Speaks rows of which each begins, rests and ends on its own.

    Args:
      model: the vocoder, folded.
      params: its parameters.
      mel: [B, C, 80] log-mel.
      state: from `init_stream` or the chunk before.
      keys: [B], of the noise.
      num_frames: [B] int32, the frames that each row hears.
      last: [B] bool, the row ends with them, so the frames held back are spoken too. They cost
        a causal vocoder work only where a row ends.
      overlap: that the state was made with.

    Returns:
      wav [B, (C + delay_frames) * 480]: what a row says, from its first sample on, then zeros;
      [B] int32, how many samples those are; and the state.
    """
    given: Any = {"keys": keys, "num_frames": num_frames, "last": last}
    if isinstance(model, HiFT):
        assert isinstance(state, OverlapState)
        return speak_overlapped(model, params, mel, state, overlap=overlap, **given)
    assert isinstance(state, VocoderState)
    return _speak_causal(model, params, mel, state, **given)


def _speak_causal(
    model: CausalHiFT,
    params: Any,
    mel: jax.Array,
    state: VocoderState,
    *,
    keys: jax.Array,
    num_frames: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, jax.Array, VocoderState]:
    """`speak_rows` of the causal vocoder."""
    ahead, rate = model.config.lookahead, model.config.samples_per_frame
    num_new = mel.shape[1]
    size = max(num_new, ahead)
    mel = jnp.pad(mel, ((0, 0), (0, size - num_new), (0, 0)))
    # The frames held back are spoken by a second turn of one loop: as a program of its own it would
    # take as long to compile as the first.
    num_turns = 1 + (jnp.any(last) if ahead else 0)

    def turn(index: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        wav, count, state = carry
        first = index == 0
        heard = jnp.where(first, num_frames, jnp.where(last, ahead, 0))
        new, more, state = _speak_known(
            model, params, jnp.where(first, mel, 0.0), state, keys=keys, num_frames=heard
        )
        put = lambda row, end, at: jax.lax.dynamic_update_slice_in_dim(row, end, at, 0)
        return jax.vmap(put)(wav, new, count * rate), count + more, state

    wav = jnp.zeros((mel.shape[0], 2 * size * rate), jnp.float32)
    carry = wav, jnp.zeros_like(num_frames), state
    wav, count, state = jax.lax.fori_loop(0, num_turns, turn, carry)
    return wav[:, : (num_new + ahead) * rate], count * rate, state


def _speak_known(
    model: CausalHiFT,
    params: Any,
    mel: jax.Array,
    state: VocoderState,
    *,
    keys: jax.Array,
    num_frames: jax.Array,
) -> tuple[jax.Array, jax.Array, VocoderState]:
    """As `_speak_causal` in frames, without ends: the silence before each start is cut off."""
    silent = jnp.clip(model.config.lookahead - state.position, 0, num_frames)
    wav, state = speak_chunk(model, params, mel, state, key=keys, num_frames=num_frames)
    return (
        shift_left(wav, silent * model.config.samples_per_frame),
        num_frames - silent,
        state,
    )
