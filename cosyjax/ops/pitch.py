"""Fundamental frequency by YIN (de Cheveigne and Kawahara, 2002), batched, at the mel's frames.

The vocoder's pitch predictor learns from it. Frame f is centred where mel frame f is, on sample
480 f + 240.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.ops import stft
from cosyjax.ops.stft import Array


@dataclasses.dataclass(frozen=True)
class PitchConfig:
    """Search range and thresholds."""

    sample_rate_hz: int = shapes.SAMPLE_RATE_HZ
    hop_samples: int = shapes.SAMPLES_PER_FRAME
    fmin_hz: float = 60.0
    fmax_hz: float = 500.0
    trough: float = 0.15  # the first lag whose normalised difference lies below it is the period
    voiced_below: float = 0.35  # aperiodicity at the period above which a frame is unvoiced
    floor_db: float = -50.0  # below the loudest frame of the recording a frame is unvoiced

    def __post_init__(self) -> None:
        if not 0 < self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 8:
            raise InputError(
                f"fmin_hz={self.fmin_hz}, fmax_hz={self.fmax_hz}: 0 < fmin < fmax <= an eighth of "
                f"{self.sample_rate_hz} Hz is needed"
            )

    @property
    def max_lag(self) -> int:
        """Samples of the longest period."""
        return int(self.sample_rate_hz / self.fmin_hz) + 1

    @property
    def min_lag(self) -> int:
        """Samples of the shortest period."""
        return int(self.sample_rate_hz / self.fmax_hz)

    @property
    def window_samples(self) -> int:
        """Samples that are compared with their shifted selves: two of the longest periods."""
        return 2 * self.max_lag


def yin(
    wav: Array, num_samples: Array | None = None, *, config: PitchConfig = PitchConfig()
) -> jax.Array:
    """Estimates the fundamental frequency.

    Args:
      wav: [B, N] in [-1, 1]; what lies beyond `num_samples` is ignored.
      num_samples: [B] valid samples per row; None means N.
      config: range and thresholds.

    Returns:
      [B, N // hop] float32 Hz, 0 where unvoiced and beyond a row's `num_samples // hop` frames.
    """
    shapes.check(wav, "B N", "wav")
    num_frames = wav.shape[1] // config.hop_samples
    lengths = jnp.full(wav.shape[:1], wav.shape[1]) if num_samples is None else num_samples
    inside = jnp.arange(wav.shape[1]) < lengths[:, None]
    wav = jnp.where(inside, jnp.asarray(wav, jnp.float32), 0.0)
    pieces = _pieces(wav, num_frames, config)
    difference = _normalised_difference(pieces, config)
    period, aperiodicity = _period(difference, config)
    energy = jnp.mean(jnp.square(pieces), axis=-1)
    floor = jnp.max(energy, axis=1, keepdims=True) * 10.0 ** (config.floor_db / 10)
    valid = jnp.arange(num_frames) < (lengths // config.hop_samples)[:, None]
    voiced = valid & (aperiodicity < config.voiced_below) & (energy > jnp.maximum(floor, 1e-9))
    return jnp.where(voiced, config.sample_rate_hz / period, 0.0)


def _pieces(wav: jax.Array, num_frames: int, config: PitchConfig) -> jax.Array:
    """[B, F, window + max_lag + 1] samples around the centre of each frame."""
    size = config.window_samples + config.max_lag + 1
    before = size // 2 - config.hop_samples // 2
    padded = jnp.pad(wav, ((0, 0), (before, size)))
    return stft.frames(padded, size, config.hop_samples)[:, :num_frames]


def _normalised_difference(pieces: jax.Array, config: PitchConfig) -> jax.Array:
    """[B, F, max_lag + 2]: 1 where a shift is as bad as the shorter ones, 0 at a perfect period."""
    window, size = config.window_samples, pieces.shape[-1]
    num_lags = config.max_lag + 2
    fft_size = 1 << (size + window - 1).bit_length()
    head = jnp.fft.rfft(pieces[..., :window], fft_size)
    correlation = jnp.fft.irfft(jnp.fft.rfft(pieces, fft_size) * jnp.conj(head), fft_size)
    power = jnp.cumsum(jnp.pad(jnp.square(pieces), ((0, 0), (0, 0), (1, 0))), axis=-1)
    energy = power[..., window : window + num_lags] - power[..., :num_lags]
    difference = jnp.maximum(energy[..., :1] + energy - 2.0 * correlation[..., :num_lags], 0.0)
    lags = jnp.arange(num_lags)
    total = jnp.cumsum(difference.at[..., 0].set(0.0), axis=-1)
    normalised = difference * lags / jnp.maximum(total, 1e-9)
    return jnp.where((lags > 0) & (total > 1e-9), normalised, 1.0)


def _period(difference: jax.Array, config: PitchConfig) -> tuple[jax.Array, jax.Array]:
    """Lag in samples, interpolated, and the normalised difference there."""
    lags = jnp.arange(config.min_lag, config.max_lag + 1)
    here = difference[..., config.min_lag : config.max_lag + 1]
    left = difference[..., config.min_lag - 1 : config.max_lag]
    right = difference[..., config.min_lag + 1 : config.max_lag + 2]
    good = (here < config.trough) & (here <= left) & (here < right)
    index = jnp.where(good.any(-1), jnp.argmax(good, -1), jnp.argmin(here, -1))[..., None]
    at = lambda values: jnp.take_along_axis(values, index, axis=-1)[..., 0]
    low, middle, high = at(left), at(here), at(right)
    bend = low - 2.0 * middle + high  # of the parabola through the three
    shift = jnp.where(bend > 1e-9, 0.5 * (low - high) / jnp.maximum(bend, 1e-9), 0.0)
    return lags[index[..., 0]] + jnp.clip(shift, -0.5, 0.5), middle
