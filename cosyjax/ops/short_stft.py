"""Fourier transforms of few points as one matrix product, with rows that end where they end.

For 16 points a product with an 18-column basis beats an FFT and keeps real arrays. The layout
stacks n_fft // 2 + 1 real parts before as many imaginary ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import stft as framing


def _angles(n_fft: int) -> np.ndarray:
    bins, points = np.arange(n_fft // 2 + 1), np.arange(n_fft)
    return 2.0 * np.pi * np.outer(points, bins) / n_fft


def _window(n_fft: int) -> np.ndarray:
    return framing.hann_window(n_fft).astype(np.float64)


def transform(
    wav: jax.Array, *, n_fft: int, hop: int, num_samples: jax.Array | None = None
) -> jax.Array:
    """Centred short-time spectrum with reflected ends and a periodic Hann window.

    Args:
      wav: [B, N].
      n_fft: points of the transform.
      hop: samples between frames.
      num_samples: [B] true length of each row; None where every row is full.

    Returns:
      [B, N // hop + 1, n_fft + 2] float32; row b has num_samples[b] // hop + 1 valid frames.
    """
    return transform_unpadded(
        framing.reflect_pad(wav, n_fft // 2, num_samples), n_fft=n_fft, hop=hop
    )


def transform_unpadded(wav: jax.Array, *, n_fft: int, hop: int) -> jax.Array:
    """As `transform`, of the (N - n_fft) // hop + 1 frames that lie within `wav` [B, N]."""
    angles, window = _angles(n_fft), _window(n_fft)[:, None]
    basis = np.concatenate([np.cos(angles) * window, -np.sin(angles) * window], axis=1)
    return _product(framing.frames(wav, n_fft, hop), basis)


def inverse(
    spectrum: jax.Array, *, n_fft: int, hop: int, num_frames: jax.Array | None = None
) -> jax.Array:
    """Inverts `transform`, dividing by the squared windows of the frames that exist.

    Args:
      spectrum: [B, F, n_fft + 2], real parts before imaginary ones.
      n_fft: points of the transform.
      hop: samples between frames.
      num_frames: [B] valid frames of each row; None where every row is full.

    Returns:
      [B, (F - 1) * hop] float32; row b has (num_frames[b] - 1) * hop valid samples.
    """
    batch, frames, _ = spectrum.shape
    valid = jnp.ones((1, frames, 1), bool)
    if num_frames is not None:
        valid = (jnp.arange(frames) < num_frames[:, None])[..., None]
        spectrum = jnp.where(valid, spectrum, 0.0)
    pieces = _product(spectrum, _inverse_basis(n_fft))
    squares = jnp.where(valid, np.float32(_window(n_fft) ** 2), 0.0)
    envelope = framing.overlap_add(squares, hop)
    wav = framing.overlap_add(pieces, hop) / jnp.where(envelope > 1e-11, envelope, 1.0)
    half = n_fft // 2
    return wav[:, half : half + (frames - 1) * hop]


def inverse_sums(spectrum: jax.Array, *, n_fft: int, hop: int) -> jax.Array:
    """Overlapping samples of a spectrum that goes on before and after.

    Frame j speaks from sample j * hop on. The last n_fft - hop samples still lack the frames to
    come, and the first as many those before: add the end of one call's sums to the start of the
    next one's. Divided by the squared windows of a signal without ends, so the first samples of
    all rise from nothing.

    Args:
      spectrum: [B, F, n_fft + 2], real parts before imaginary ones.
      n_fft: points of the transform, a multiple of `hop`.
      hop: samples between frames.

    Returns:
      [B, F * hop + n_fft - hop] float32.
    """
    envelope = np.sum(_window(n_fft).reshape(-1, hop) ** 2, axis=0)
    basis = _inverse_basis(n_fft) / np.tile(envelope, n_fft // hop)
    return framing.overlap_add(_product(spectrum, basis), hop)


def _inverse_basis(n_fft: int) -> np.ndarray:
    """[n_fft + 2, n_fft] windowed synthesis; inner bins count twice, for their conjugates."""
    twice = np.full((n_fft // 2 + 1, 1), 2.0)
    twice[0] = twice[-1] = 1.0
    angles = _angles(n_fft).T
    basis = np.concatenate([twice * np.cos(angles), -twice * np.sin(angles)])
    return basis * _window(n_fft) / n_fft


def _product(x: jax.Array, basis: np.ndarray) -> jax.Array:
    return jnp.matmul(x, jnp.asarray(basis, jnp.float32), precision=jax.lax.Precision.HIGHEST)
