"""Framing, short-time Fourier transform and its inverse, for any size and hop.

All arrays are float32. Padding is explicit: `reflect_pad` mirrors each row at its own end, so a
row of a padded batch gets the frames that it would get alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError

Array = jax.Array | np.ndarray


def hann_window(length: int, *, periodic: bool = True) -> np.ndarray:
    """Returns the Hann window [length] float32; periodic for spectra, symmetric for filters."""
    period = length if periodic else max(length - 1, 1)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / period)
    return window.astype(np.float32)


def sample_mask(wav: Array, num_samples: Array | None) -> jax.Array:
    """[B, N] bool, True where a sample is valid; everything is where `num_samples` is None."""
    if num_samples is None:
        return jnp.ones(wav.shape, bool)
    return jnp.arange(wav.shape[1]) < num_samples[:, None]


def reflect_pad(wav: Array, pad: int, num_samples: Array | None = None) -> jax.Array:
    """Mirrors both ends of each row, without repeating the edge sample.

    Args:
      wav: [B, N]; samples beyond `num_samples` may hold anything, NaN too.
      pad: samples to add on each side.
      num_samples: [B] valid samples per row; None means N.

    Returns:
      [B, N + 2 * pad]: `pad` mirrored samples, the row, `pad` mirrored samples, then zeros.

    Raises:
      InputError: N is not larger than `pad`, so that there is nothing to mirror.
    """
    wav = jnp.asarray(wav)
    batch, total = wav.shape
    if total <= pad:
        raise InputError(f"a wav of {total} samples is too short; at least {pad + 1} are needed")
    if num_samples is None:
        return jnp.pad(wav, ((0, 0), (pad, pad)), mode="reflect")
    wav = jnp.where(sample_mask(wav, num_samples), wav, 0.0)
    head = wav[:, 1 : pad + 1][:, ::-1]
    padded = jnp.concatenate([head, wav, jnp.zeros((batch, pad), wav.dtype)], axis=1)

    def mirror_tail(row: jax.Array, length: jax.Array) -> jax.Array:
        # Sample i lies at pad + i; the tail mirrors samples length - 1 - pad ... length - 2.
        tail = jax.lax.dynamic_slice(row, (length - 1,), (pad,))[::-1]
        return jax.lax.dynamic_update_slice(row, tail, (pad + length,))

    return jax.vmap(mirror_tail)(padded, jnp.maximum(jnp.asarray(num_samples, jnp.int32), 1))


def frames(x: jax.Array, length: int, hop: int) -> jax.Array:
    """Cuts overlapping frames: [B, N] -> [B, (N - length) // hop + 1, length].

    The pieces of one hop are stacked side by side, which needs no gather.
    """
    batch, total = x.shape
    if total < length:
        raise InputError(f"{total} samples are fewer than one frame of {length}")
    num_frames = (total - length) // hop + 1
    num_pieces = -(-length // hop)
    needed = (num_frames - 1 + num_pieces) * hop
    x = jnp.pad(x[:, :needed], ((0, 0), (0, max(0, needed - total))))
    pieces = x.reshape(batch, -1, hop)
    shifted = [pieces[:, k : k + num_frames] for k in range(num_pieces)]
    return jnp.concatenate(shifted, axis=-1)[..., :length]


def overlap_add(pieces: jax.Array, hop: int) -> jax.Array:
    """Adds overlapping frames: [B, F, length] -> [B, (F - 1) * hop + length]."""
    batch, num_frames, length = pieces.shape
    num_pieces = -(-length // hop)
    pieces = jnp.pad(pieces, ((0, 0), (0, 0), (0, num_pieces * hop - length)))
    pieces = pieces.reshape(batch, num_frames, num_pieces, hop)
    shifts = [
        jnp.pad(pieces[:, :, k], ((0, 0), (k, num_pieces - 1 - k), (0, 0)))
        for k in range(num_pieces)
    ]
    return sum(shifts[1:], shifts[0]).reshape(batch, -1)[:, : (num_frames - 1) * hop + length]


def stft(x: jax.Array, *, n_fft: int, hop: int, window: np.ndarray) -> jax.Array:
    """Transforms frames of an already padded signal.

    Args:
      x: [B, N] float32.
      n_fft: points of the transform.
      hop: samples between frames.
      window: [length], length <= n_fft; centred in the frame where it is shorter.

    Returns:
      [B, (N - n_fft) // hop + 1, n_fft // 2 + 1] complex64.
    """
    return jnp.fft.rfft(frames(x, n_fft, hop) * _centred(window, n_fft), axis=-1)


def istft(spectrum: jax.Array, *, n_fft: int, hop: int, window: np.ndarray) -> jax.Array:
    """Inverts `stft` where the squared windows cover every sample.

    Args:
      spectrum: [B, F, n_fft // 2 + 1] complex64.
      n_fft: points of the transform.
      hop: samples between frames.
      window: [length], length <= n_fft.

    Returns:
      [B, (F - 1) * hop + n_fft] float32; samples that no window covers are zero.
    """
    full = jnp.asarray(_centred(window, n_fft))
    pieces = jnp.fft.irfft(spectrum, n=n_fft, axis=-1) * full
    envelope = overlap_add(jnp.broadcast_to(full**2, (1, spectrum.shape[1], n_fft)), hop)
    covered = envelope > 1e-11
    return jnp.where(covered, overlap_add(pieces, hop) / jnp.where(covered, envelope, 1.0), 0.0)


def _centred(window: np.ndarray, n_fft: int) -> np.ndarray:
    if len(window) > n_fft:
        raise InputError(f"a window of {len(window)} samples does not fit into n_fft={n_fft}")
    left = (n_fft - len(window)) // 2
    return np.pad(window, (left, n_fft - len(window) - left)).astype(np.float32)
