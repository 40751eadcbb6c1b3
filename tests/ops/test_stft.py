"""Framing and short-time Fourier transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import stft

N = 160


def _noise(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("length, hop", [(16, 4), (20, 8), (8, 8), (5, 7)])
def test_frames_are_slices_of_the_signal(length, hop):
    x = _noise((2, N))
    cut = stft.frames(x, length, hop)
    assert cut.shape == (2, (N - length) // hop + 1, length)
    for f in range(cut.shape[1]):
        np.testing.assert_array_equal(cut[:, f], x[:, f * hop : f * hop + length])


def test_the_inverse_transform_returns_the_signal():
    x, window = _noise((2, N)), stft.hann_window(16)
    spectrum = stft.stft(x, n_fft=16, hop=4, window=window)
    back = stft.istft(spectrum, n_fft=16, hop=4, window=window)
    np.testing.assert_allclose(back[:, 1:-1], x[:, 1:-1], atol=2e-5)


def test_a_short_window_stands_in_the_middle_of_the_frame():
    window = stft.hann_window(8)
    padded = np.pad(window, 4)
    x = _noise((1, N))
    a = stft.stft(x, n_fft=16, hop=4, window=window)
    b = stft.stft(x, n_fft=16, hop=4, window=padded)
    np.testing.assert_array_equal(a, b)


def test_each_row_is_mirrored_at_its_own_end():
    x = _noise((2, 30))
    lengths = jnp.array([30, 17])
    poisoned = jnp.where(jnp.arange(30) < lengths[:, None], x, jnp.nan)
    padded = stft.reflect_pad(poisoned, 6, lengths)
    for row, length in enumerate((30, 17)):
        alone = np.pad(np.asarray(x[row, :length]), 6, mode="reflect")
        np.testing.assert_array_equal(padded[row, : length + 12], alone)
    assert np.all(padded[1, 17 + 12 :] == 0)


def test_a_wav_shorter_than_the_padding_is_refused():
    with pytest.raises(InputError, match="at least 7"):
        stft.reflect_pad(jnp.zeros((1, 6)), 6)
