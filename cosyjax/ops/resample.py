"""Band-limited resampling: a sinc low-pass under a Hann window, between any two integer rates.

The defaults (6 zero crossings on each side, roll-off 0.99 of the lower Nyquist rate) are those of
torchaudio, whose output this equals.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.ops import product, stft

LOWPASS_WIDTH = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # cut-off, of the lower of the two Nyquist rates
MAX_DENSE = (
    1 << 22
)  # largest dense filter; above it (rates with no common divisor) taps are gathered


def num_resampled(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Samples that `resample` returns for `num_samples`."""
    return -(-num_samples * to_hz // from_hz)


def resample(wav: jax.Array | np.ndarray, from_hz: int, to_hz: int) -> jax.Array:
    """Changes the sample rate.

    Args:
      wav: [..., N] float at `from_hz`.
      from_hz: rate of `wav`, a positive integer.
      to_hz: rate wanted, a positive integer.

    Returns:
      [..., ceil(N * to_hz / from_hz)] float32. The signal counts as zero outside its N samples.
    """
    if min(from_hz, to_hz) < 1 or int(from_hz) != from_hz or int(to_hz) != to_hz:
        raise InputError(f"rates are positive integers in Hz, not {from_hz} and {to_hz}")
    wav = jnp.asarray(wav, jnp.float32)
    if from_hz == to_hz:
        return wav
    divisor = math.gcd(from_hz, to_hz)
    old, new = from_hz // divisor, to_hz // divisor
    apply = _resample_dense if new * (old + 2 * _reach(old, new)) <= MAX_DENSE else _resample_taps
    rows = wav.reshape(-1, wav.shape[-1])
    y = apply(rows, old, new)[:, : num_resampled(wav.shape[-1], from_hz, to_hz)]
    return y.reshape(*wav.shape[:-1], -1)


def _resample_dense(wav: jax.Array, old: int, new: int) -> jax.Array:
    """Every `old` samples become `new` by one matrix product."""
    reach = _reach(old, new)
    offsets = np.arange(-reach, reach + old)
    kernel = _lowpass(offsets[:, None] - np.arange(new) * (old / new), old, new)
    x = jnp.pad(wav, ((0, 0), (reach, reach + old)))
    pieces = stft.frames(x, 2 * reach + old, old)
    return product.dense(pieces, jnp.asarray(kernel)).reshape(wav.shape[0], -1)


def _resample_taps(wav: jax.Array, old: int, new: int) -> jax.Array:
    """The same sum with the taps of each output gathered: for rates with no common divisor."""
    reach = _reach(old, new)
    num_blocks = wav.shape[1] // old + 1
    phase = np.arange(new)
    centre = phase * old // new
    offsets = np.arange(-reach, reach + 1)
    distance = offsets + (centre - phase * (old / new))[:, None]
    kernel = _lowpass(distance, old, new)  # [new, taps]
    needed = num_blocks * old + 2 * reach + 1
    x = jnp.pad(wav, ((0, 0), (reach, needed - reach - wav.shape[1])))
    first = (np.arange(num_blocks)[:, None] * old + centre).reshape(-1)
    last = num_resampled(wav.shape[1], old, new)
    first, rows = first[:last], np.tile(phase, num_blocks)[:last]
    taps = x[:, jnp.asarray(first[:, None] + np.arange(2 * reach + 1))]
    return jnp.sum(taps * jnp.asarray(kernel)[jnp.asarray(rows)], axis=-1)


def _reach(old: int, new: int) -> int:
    """Input samples on each side of an output that the filter can touch."""
    return math.ceil(LOWPASS_WIDTH * old / (min(old, new) * ROLLOFF))


def _lowpass(distance: np.ndarray, old: int, new: int) -> np.ndarray:
    """Filter values float32 at `distance` input samples from the output's place."""
    cutoff = min(old, new) * ROLLOFF / old  # of the input's rate
    t = np.clip(distance * cutoff, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(t * np.pi / LOWPASS_WIDTH / 2) ** 2
    return (np.sinc(t) * window * cutoff).astype(np.float32)
