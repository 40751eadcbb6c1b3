"""Kaldi's log-mel filterbank energies, the input of the speaker encoder.

25 ms frames every 10 ms, only whole frames, no dither, DC removed per frame, pre-emphasis 0.97,
Povey window, power spectrum, natural logarithm floored at the float32 epsilon. Samples stay in
[-1, 1]: they are not scaled to 16-bit integers, as the speaker encoder was used upstream.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.ops import product, stft
from cosyjax.ops.stft import Array

PRE_EMPHASIS = 0.97
POVEY_POWER = 0.85
FLOOR = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class FbankConfig:
    """Sizes of the filterbank."""

    sample_rate_hz: int = 16_000
    num_mels: int = 80
    frame_ms: int = 25  # length of a frame
    hop_ms: int = 10  # time between frames
    fmin_hz: float = 20.0  # lower edge of the first filter; the last ends at half the rate

    def __post_init__(self) -> None:
        if min(self.sample_rate_hz, self.num_mels, self.frame_ms, self.hop_ms) < 1:
            raise InputError(f"{self}: sizes must be positive")

    @property
    def frame_samples(self) -> int:
        """Samples of a frame."""
        return self.sample_rate_hz * self.frame_ms // 1000

    @property
    def hop_samples(self) -> int:
        """Samples between frames."""
        return self.sample_rate_hz * self.hop_ms // 1000

    @property
    def n_fft(self) -> int:
        """Points of the transform: the next power of two."""
        return 1 << (self.frame_samples - 1).bit_length()


KALDI_80 = FbankConfig()


def num_frames(num_samples: Array, config: FbankConfig = KALDI_80) -> jax.Array:
    """Whole frames in `num_samples` samples; 0 where there is none."""
    return jnp.maximum((num_samples - config.frame_samples) // config.hop_samples + 1, 0)


def fbank(
    wav: Array, num_samples: Array | None = None, *, config: FbankConfig = KALDI_80
) -> jax.Array:
    """Returns log-mel filterbank energies.

    Args:
      wav: [B, N] at 16 kHz, in [-1, 1], N >= 400.
      num_samples: [B] valid samples per row; None means N.
      config: sizes.

    Returns:
      [B, (N - 400) // 160 + 1, 80]; zeros after a row's `num_frames(num_samples)`.
    """
    wav = jnp.where(stft.sample_mask(wav, num_samples), wav.astype(jnp.float32), 0.0)
    x = stft.frames(wav, config.frame_samples, config.hop_samples)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    previous = jnp.concatenate([x[..., :1], x[..., :-1]], axis=-1)
    x = (x - PRE_EMPHASIS * previous) * _povey_window(config.frame_samples)
    spectrum = jnp.fft.rfft(x, n=config.n_fft, axis=-1)  # zeros are appended up to n_fft
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    energies = product.dense(power, jnp.asarray(filterbank(config)))
    return jnp.where(
        _frame_mask(energies, num_samples, config), jnp.log(jnp.maximum(energies, FLOOR)), 0.0
    )


def subtract_mean(features: Array, lengths: Array | None = None) -> jax.Array:
    """Removes each utterance's mean over its valid frames: [B, F, M] -> [B, F, M].

    Args:
      features: [B, F, M]; frames beyond `lengths` may hold anything.
      lengths: [B] valid frames; None means F.
    """
    if lengths is None:
        return jnp.asarray(features) - jnp.mean(features, axis=1, keepdims=True)
    valid = (jnp.arange(features.shape[1]) < lengths[:, None])[..., None]
    total = jnp.sum(jnp.where(valid, features, 0.0), axis=1, keepdims=True)
    mean = total / jnp.maximum(lengths, 1)[:, None, None]
    return jnp.where(valid, features - mean, 0.0)


@functools.lru_cache(maxsize=8)
def filterbank(config: FbankConfig) -> np.ndarray:
    """Triangles on the mel scale 1127 ln(1 + f / 700): [n_fft // 2 + 1, num_mels] float32.

    The Nyquist bin belongs to no filter. Edges and slopes are rounded to float32 at each step, as
    in the implementation that the speaker encoder was trained with.
    """
    low, high = (float(_hz_to_mel(f)) for f in (config.fmin_hz, config.sample_rate_hz / 2))
    width = np.float32((high - low) / (config.num_mels + 1))
    index = np.arange(config.num_mels, dtype=np.float32)
    left, centre, right = (np.float32(low) + (index + np.float32(k)) * width for k in range(3))
    bin_hz = np.float32(config.sample_rate_hz / config.n_fft)
    bins = _hz_to_mel(np.arange(config.n_fft // 2, dtype=np.float32) * bin_hz)[:, None]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    filters = np.pad(np.maximum(triangles, 0.0), ((0, 1), (0, 0)))
    filters.setflags(write=False)
    return filters


def _hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """HTK's scale in the type of `hz`."""
    return 1127.0 * np.log(1.0 + hz / 700.0)


def _povey_window(length: int) -> np.ndarray:
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / (length - 1))
    return (hann**POVEY_POWER).astype(np.float32)


def _frame_mask(x: jax.Array, num_samples: Array | None, config: FbankConfig) -> jax.Array:
    if num_samples is None:
        return jnp.ones((*x.shape[:2], 1), bool)
    return (jnp.arange(x.shape[1]) < num_frames(num_samples, config)[:, None])[..., None]
