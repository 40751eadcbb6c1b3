import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import short_stft

transform = jax.jit(functools.partial(short_stft.transform, n_fft=16, hop=4))
inverse = jax.jit(functools.partial(short_stft.inverse, n_fft=16, hop=4))
WAV = np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32)


def test_inverse_of_the_transform_is_the_wav():
    spectrum = transform(WAV)
    np.testing.assert_allclose(inverse(spectrum), WAV, atol=1e-6)


def test_first_inner_frame_is_its_fourier_transform():
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(16) / 16)
    wanted = np.fft.rfft(np.asarray(WAV[0, :16], np.float64) * window)
    got = np.asarray(transform(WAV))[0, 2]
    np.testing.assert_allclose(got, np.concatenate([wanted.real, wanted.imag]), atol=1e-5)


def test_rows_end_where_they_end():
    poisoned = WAV.copy()
    poisoned[0, 64:] = np.nan
    spectrum = transform(poisoned, num_samples=jnp.array([64, 96]))
    alone = transform(WAV[:1, :64])
    np.testing.assert_allclose(spectrum[:1, :17], alone, atol=1e-6)
    spectrum = spectrum.at[0, 17:].set(jnp.nan)
    wav = inverse(spectrum, num_frames=jnp.array([17, 25]))
    np.testing.assert_allclose(wav[0, :64], WAV[0, :64], atol=1e-6)
    np.testing.assert_allclose(wav[1], WAV[1], atol=1e-6)


def test_imaginary_parts_of_the_outer_bins_say_nothing():
    spectrum = transform(WAV)
    changed = spectrum.at[..., 9].add(5.0).at[..., 17].add(5.0)
    got = inverse(changed)
    np.testing.assert_allclose(got, inverse(spectrum), atol=1e-5)


def test_spectra_without_ends_give_the_wav_back_piece_by_piece():
    context = np.pad(WAV, ((0, 0), (12, 0)))  # frame j ends with sample 4 j + 3
    spectrum = short_stft.transform_unpadded(context, n_fft=16, hop=4)
    whole = short_stft.inverse_sums(spectrum, n_fft=16, hop=4)  # delayed by 12 samples
    np.testing.assert_allclose(whole[:, 12:96], WAV[:, :84], atol=1e-6)
    first, rest = (short_stft.inverse_sums(s, n_fft=16, hop=4) for s in np.split(spectrum, [10], 1))
    joined = jnp.concatenate([first[:, :40], rest.at[:, :12].add(first[:, 40:])], axis=1)
    np.testing.assert_allclose(joined, whole, atol=1e-6)
