"""Mel spectrograms: 128 bins at 16 kHz for the speech tokenizer, 80 bins at 24 kHz for the flow.

CosyVoice 2 (arXiv:2412.10117) sections 2.2 and 2.4. Both use the Slaney mel scale with filters
of unit area. The tokenizer's spectrogram is Whisper's: base-10 logarithm, floored eight decades
below the loudest value *of the utterance*. The flow's and the vocoder's is the natural logarithm
of magnitudes. Both take `num_samples`, so a row of a padded batch equals the row alone.
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

LINEAR_HZ_PER_MEL = 200.0 / 3.0  # Slaney's scale is linear up to 1 kHz ...
BREAK_HZ = 1000.0
LOG_STEP = np.log(6.4) / 27.0  # ... and logarithmic above: 27 mels from 1 kHz to 6.4 kHz


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """Sizes of a mel spectrogram."""

    sample_rate_hz: int = 24_000
    n_fft: int = 1920  # points of the transform
    hop_samples: int = 480  # samples between frames
    window_samples: int = 1920  # length of the Hann window
    num_mels: int = 80
    fmin_hz: float = 0.0  # lower edge of the first filter
    fmax_hz: float | None = 8000.0  # upper edge of the last; None is half the sample rate

    def __post_init__(self) -> None:
        sizes = (self.sample_rate_hz, self.n_fft, self.hop_samples, self.num_mels)
        if min(sizes) < 1 or not 1 <= self.window_samples <= self.n_fft:
            raise InputError(f"{self}: sizes must be positive and window_samples at most n_fft")
        if not 0 <= self.fmin_hz < self.top_hz:
            raise InputError(f"fmin_hz={self.fmin_hz} must lie below fmax_hz={self.top_hz}")

    @property
    def top_hz(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.sample_rate_hz / 2 if self.fmax_hz is None else self.fmax_hz


WHISPER_128 = MelConfig(16_000, 400, 160, 400, num_mels=128, fmax_hz=None)
MATCHA_80 = MelConfig()


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel of a frequency in Hz."""
    high = BREAK_HZ / LINEAR_HZ_PER_MEL + np.log(np.maximum(hz, BREAK_HZ) / BREAK_HZ) / LOG_STEP
    return np.where(hz < BREAK_HZ, hz / LINEAR_HZ_PER_MEL, high)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    above = np.maximum(mel - BREAK_HZ / LINEAR_HZ_PER_MEL, 0.0)
    return np.where(above > 0, BREAK_HZ * np.exp(LOG_STEP * above), LINEAR_HZ_PER_MEL * mel)


@functools.lru_cache(maxsize=16)
def filterbank(config: MelConfig) -> np.ndarray:
    """Triangular filters [n_fft // 2 + 1, num_mels] float32, each scaled to unit area in Hz."""
    edges_mel = np.linspace(
        hz_to_mel(np.asarray(config.fmin_hz)),
        hz_to_mel(np.asarray(config.top_hz)),
        config.num_mels + 2,
    )
    left, centre, right = (mel_to_hz(edges_mel)[k : k + config.num_mels] for k in range(3))
    bins_hz = np.linspace(0.0, config.sample_rate_hz / 2, config.n_fft // 2 + 1)[:, None]
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters = (triangles * (2.0 / (right - left))).astype(np.float32)
    filters.setflags(write=False)
    return filters


def log_mel_128(
    wav: Array, num_samples: Array | None = None, *, config: MelConfig = WHISPER_128
) -> jax.Array:
    """Returns Whisper's log-mel spectrogram.

    Args:
      wav: [B, N] at 16 kHz, in [-1, 1], N > 200.
      num_samples: [B] valid samples per row; None means N.
      config: sizes; the default is the speech tokenizer's.

    Returns:
      [B, N // 160, 128], about [-1, 1.5]; row b has `num_samples[b] // 160` valid frames and
      zeros after them.
    """
    power = _power(wav, config.n_fft // 2, num_samples, config)[:, : _num_frames(wav, config)]
    mel = product.dense(power, jnp.asarray(filterbank(config)))
    log_mel = jnp.log10(jnp.maximum(mel, 1e-10))
    valid = frame_mask(log_mel, num_samples, config.hop_samples)
    # The floor follows the loudest value of each utterance, never of the batch or the padding.
    loudest = jnp.max(jnp.where(valid, log_mel, -jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.where(valid, (jnp.maximum(log_mel, loudest - 8.0) + 4.0) / 4.0, 0.0)


def mel_80(
    wav: Array, num_samples: Array | None = None, *, fmax_hz: float | None = 8000.0
) -> jax.Array:
    """Returns the 80-bin log-mel spectrogram at 50 Hz that the flow predicts.

    Args:
      wav: [B, N] at 24 kHz, in [-1, 1], N > 720.
      num_samples: [B] valid samples per row; None means N.
      fmax_hz: 8000 for features, None (12 kHz) in the vocoder's mel loss.

    Returns:
      [B, N // 480, 80], natural log; zeros after a row's `num_samples // 480` frames.
    """
    return log_mel(wav, num_samples, config=dataclasses.replace(MATCHA_80, fmax_hz=fmax_hz))


def log_mel(
    wav: Array, num_samples: Array | None = None, *, config: MelConfig = MATCHA_80
) -> jax.Array:
    """`mel_80` in other sizes: natural log of mel-weighted magnitudes, at least ln 1e-5."""
    pad = (config.n_fft - config.hop_samples) // 2
    power = _power(wav, pad, num_samples, config)[:, : _num_frames(wav, config)]
    mel = product.dense(jnp.sqrt(power + 1e-9), jnp.asarray(filterbank(config)))
    log_magnitude = jnp.log(jnp.maximum(mel, 1e-5))
    valid = frame_mask(log_magnitude, num_samples, config.hop_samples)
    return jnp.where(valid, log_magnitude, 0.0)


def frame_mask(mel: jax.Array, num_samples: Array | None, hop: int) -> jax.Array:
    """[B, F, 1] bool, True for the `num_samples // hop` valid frames of each row."""
    batch, num_frames = mel.shape[:2]
    if num_samples is None:
        return jnp.ones((batch, num_frames, 1), bool)
    return (jnp.arange(num_frames) < (num_samples // hop)[:, None])[..., None]


def _power(wav: Array, pad: int, num_samples: Array | None, config: MelConfig) -> jax.Array:
    padded = stft.reflect_pad(wav.astype(jnp.float32), pad, num_samples)
    window = stft.hann_window(config.window_samples)
    spectrum = stft.stft(padded, n_fft=config.n_fft, hop=config.hop_samples, window=window)
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _num_frames(wav: Array, config: MelConfig) -> int:
    return wav.shape[1] // config.hop_samples
