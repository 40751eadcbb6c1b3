"""The causal vocoder: HiFT that streams exactly, sample for sample what it speaks at once.

Causality as in the official generator after CosyVoice 2: a few mel frames of look-ahead in the
first convolutions of pitch and filter, every other convolution over the past alone, repeated frames
and a convolution in the place of transposed ones, a source whose phase is carried, and spectra of
windows that end at the present. So no sample of frame t depends on a frame after t + lookahead.

Differs: F0 is computed by `ops.exact`, where the official generator takes float64 for the same
reason; a frame's harmonics run at one frequency and start anew after unvoiced frames; the noise of
the harmonics, which are summed up anyway, is drawn as one; the first convolution also sees two
frames of the past.

Everything is written once, over frames with their context: the whole utterance is a step from
silence whose look-ahead is there already.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.layers import causal_vocoder as layers
from cosyjax.layers.causal_pitch import CausalPitch, HarmonicMix
from cosyjax.layers.causal_vocoder import Span
from cosyjax.layers.vocoder import fold_kernels, keep
from cosyjax.models.causal_filter import CausalFilter, FilterState
from cosyjax.models.hift import HiFTConfig
from cosyjax.ops import held_source, product


class VocoderState(struct.PyTreeNode):
    """What the vocoder remembers of a stream, whose size never changes; rows are independent."""

    position: jax.Array  # [B] int32 mel frames heard
    mel: jax.Array  # [B, 2 + lookahead, M] the last frames heard; the last ones are not yet spoken
    pitch: tuple[jax.Array, ...]  # inputs of convolutions, [B, 2, D] each
    phase: jax.Array  # [B, num_harmonics + 1] uint32 parts of a turn
    filter: FilterState


class CausalHiFT(nn.Module):
    """The causal vocoder, with the calls of `HiFT` and, beside them, `init_state` and `step`."""

    config: HiFTConfig

    def setup(self) -> None:
        cfg = self.config
        self.f0_predictor = CausalPitch(cfg.f0_channels, cfg.f0_layers, cfg.lookahead, cfg.kernels)
        self.source_mix = HarmonicMix(cfg.num_harmonics)
        self.filter = CausalFilter(cfg)

    def __call__(
        self, mel: jax.Array, lengths: jax.Array | None = None, noise: jax.Array | None = None
    ) -> jax.Array:
        """Speaks a mel.

        Args:
          mel: [B, F, M] log-mel, natural log, 50 Hz; anything beyond `lengths`, NaN too.
          lengths: [B] int32 valid frames; None means that every row is full.
          noise: [B or 1, F * 480, 1] standard normal; None means none.

        Returns:
          [B, F * 480] float32 in [-0.99, 0.99] at 24 kHz, zero beyond each row's end.
        """
        return self.decode(mel, self.source(self.f0(mel, lengths), noise, lengths), lengths)

    def f0(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, F, M] log-mel -> [B, F] Hz, zero beyond a row's end."""
        f0 = self.f0_predictor.step(self._window(mel, lengths), None)[0]
        return _cut(f0, lengths, 1)

    def source(
        self, f0: jax.Array, noise: jax.Array | None = None, lengths: jax.Array | None = None
    ) -> jax.Array:
        """[B, F] Hz -> [B, F * 480] excitation in (-1, 1), zero beyond a row's end."""
        phase = jnp.zeros((f0.shape[0], self.config.num_harmonics + 1), jnp.uint32)
        f0 = _cut(f0, lengths, 1)
        return _cut(self._excite(f0, noise, phase)[0], lengths, self.config.samples_per_frame)

    def decode(
        self, mel: jax.Array, excitation: jax.Array, lengths: jax.Array | None = None
    ) -> jax.Array:
        """Filters the excitation [B, F * 480] by the mel [B, F, M] into a wav [B, F * 480]."""
        wav = self.filter.step(self._window(mel, lengths), excitation, None, Span())[0]
        return _cut(wav, lengths, self.config.samples_per_frame)

    def init_state(self, batch: int) -> VocoderState:
        """Returns the state of `batch` streams before their start."""
        cfg = self.config
        window = layers.BEHIND_FRAMES + cfg.lookahead
        return VocoderState(
            position=jnp.zeros((batch,), jnp.int32),
            mel=layers.silence(batch, window, cfg.num_mels),
            pitch=self.f0_predictor.init_state(batch),
            phase=jnp.zeros((batch, cfg.num_harmonics + 1), jnp.uint32),
            filter=self.filter.init_state(batch),
        )

    def step(
        self,
        mel: jax.Array,
        state: VocoderState,
        *,
        noise: jax.Array | None = None,
        num_frames: jax.Array | None = None,
        last: bool = False,
    ) -> tuple[jax.Array, VocoderState]:
        """Hears `mel` and speaks as many frames, `lookahead` frames late.

        What the steps of a stream return, one after another, is silence of `lookahead` frames and
        then what `__call__` gives. A row ends with `lookahead` frames of zeros: `last` appends
        them, for all rows; a batch whose rows end on their own hears them as mel.

        Args:
          mel: [B, C, M] the next frames.
          state: from `init_state` or the step before.
          noise: [B or 1, N, 1] standard normal, N the samples returned; frame i of them is the
            stream's frame state.position - lookahead + i.
          num_frames: [B] int32 in 0..C, the frames each row hears; the rest may be anything.
            None means C.
          last: nothing will follow.

        Returns:
          [B, N] float32, N = C * 480, or (C + lookahead) * 480 where `last`; zeros where a row
          does not speak. And the state.
        """
        cfg = self.config
        shapes.check(mel, f"B C {cfg.num_mels}", "mel", B=state.position.shape[0])
        _check_precision(mel)
        if num_frames is not None:
            inside = (jnp.arange(mel.shape[1]) < num_frames[:, None])[..., None]
            mel, num_frames = keep(mel, inside), num_frames + cfg.lookahead * last
        mel = jnp.pad(mel, ((0, 0), (0, cfg.lookahead * last), (0, 0)))
        span = Span(jnp.maximum(cfg.lookahead - state.position, 0), num_frames)
        total = mel.shape[1]
        window = jnp.concatenate([state.mel, mel], axis=1)
        f0, pitch = self.f0_predictor.step(window, state.pitch, span.started(total), num_frames)
        excitation, phases = self._excite(f0, noise, state.phase)
        before = span.started(excitation.shape[1], cfg.samples_per_frame)
        excitation = keep(excitation[..., None], before)[..., 0]
        wav, after = self.filter.step(window, excitation, state.filter, span)
        return wav, VocoderState(
            position=state.position + (total if num_frames is None else num_frames),
            mel=layers.remember(window, state.mel.shape[1], num_frames),
            pitch=pitch,
            phase=layers.remember(phases, 1, num_frames)[:, 0],
            filter=after,
        )

    def _window(self, mel: jax.Array, lengths: jax.Array | None) -> jax.Array:
        """The mel between the zeros that its first and last frame see."""
        shapes.check(mel, f"B F {self.config.num_mels}", "mel")
        _check_precision(mel)
        if lengths is not None:
            mel = keep(mel, (jnp.arange(mel.shape[1]) < lengths[:, None])[..., None])
        return jnp.pad(mel, ((0, 0), (layers.BEHIND_FRAMES, self.config.lookahead), (0, 0)))

    def _excite(
        self, f0: jax.Array, noise: jax.Array | None, start: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """F0 [B, F] and the phase before -> excitation [B, N], phases between frames."""
        cfg = self.config
        weights, bias = self.source_mix()
        total, phases = held_source.harmonic_sum(
            f0,
            start,
            cfg.sine_amplitude * weights,
            samples_per_frame=cfg.samples_per_frame,
            sample_rate_hz=cfg.sample_rate_hz,
            voiced_threshold_hz=cfg.voiced_threshold_hz,
        )
        if noise is not None:
            spread = jnp.sqrt(jnp.sum(jnp.square(weights)) + 1e-12)  # of the harmonics' sum
            level = jnp.where(f0 > cfg.voiced_threshold_hz, cfg.noise_std, cfg.sine_amplitude / 3.0)
            level = jnp.repeat(level, cfg.samples_per_frame, axis=1)
            total = total + spread * level * noise[..., 0]
        return jnp.tanh(total + bias), phases


def _cut(x: jax.Array, lengths: jax.Array | None, rate: int) -> jax.Array:
    """Zeros in [B, N] beyond the end of each row."""
    if lengths is None:
        return x
    return jnp.where(jnp.arange(x.shape[1]) < lengths[:, None] * rate, x, 0.0)


def _check_precision(mel: jax.Array) -> None:
    """A rounded mel moves F0, whose phase every later sample hears."""
    if mel.dtype in (jnp.bfloat16, jnp.float16):
        raise InputError(f"mel is {mel.dtype}; the vocoder needs float32: x.astype(jnp.float32)")


def init_params(config: HiFTConfig, key: jax.Array) -> Any:
    """Draws an unboxed parameter tree."""
    mel = jnp.zeros((1, 2, config.num_mels), jnp.float32)
    return nn.meta.unbox(jax.jit(CausalHiFT(config).init)(key, mel))["params"]


def fold_weight_norm(params: Any, config: HiFTConfig) -> tuple[Any, HiFTConfig]:
    """As `hift.fold_weight_norm`; kernels over repeated frames are summed up too."""
    if config.kernels != "normed":
        return params, config
    tiled = config.compute == "float32" and product.on_cpu()
    parts = dict(params["filter"])
    upsamples = {
        name: layers.fold_repeat(parts.pop(name), rate, tiled=tiled)
        for name, rate in ((f"upsamples_{i}", r) for i, r in enumerate(config.upsample_rates))
    }
    folded = {
        "f0_predictor": fold_kernels(params["f0_predictor"]),
        "source_mix": params["source_mix"],
        "filter": fold_kernels(parts, tiled=tiled) | upsamples,
    }
    return folded, dataclasses.replace(config, kernels="tiled" if tiled else "plain")
