"""Kaldi's filterbank energies."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import fbank
from tests import contracts


def test_fbank_equals_the_golden_file(golden):
    from safetensors.numpy import load_file

    tensors = load_file(golden / "fbank_campplus.safetensors")
    actual = fbank.fbank(tensors["in.wav1"][None])[0]
    expected = tensors["out.fbank1"]
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std(), rtol=0)


def test_padding_changes_no_energy():
    @jax.jit
    def normalised(wav, num_samples):
        energies = fbank.fbank(wav, num_samples)
        return fbank.subtract_mean(energies, fbank.num_frames(num_samples))[:, :5]

    wav = jax.random.normal(jax.random.key(0), (2, 1600))
    lengths = jnp.array([1600, 1000])  # 8 and 4 frames
    valid = jnp.arange(1600) < lengths[:, None]
    poisoned = normalised(jnp.where(valid, wav, jnp.nan), lengths)
    alone = normalised(wav[1:, :1000], lengths[1:])
    np.testing.assert_allclose(poisoned[1, :4], alone[0, :4], atol=2e-5)
    assert np.all(poisoned[1, 4:] == 0) and np.all(np.isfinite(poisoned))


def test_after_the_last_whole_frame_there_are_zeros_and_no_gradient():
    wav = jax.random.normal(jax.random.key(3), (1, 1600)).at[:, 1000:].set(jnp.nan)
    energies, pull = jax.vjp(lambda w: fbank.fbank(w, jnp.array([1000])), wav)
    assert np.all(energies[:, 4:] == 0) and np.all(np.isfinite(energies))
    (gradient,) = pull(jnp.ones_like(energies))
    assert np.all(gradient[:, 1000:] == 0) and np.all(np.isfinite(gradient))


def test_rows_and_padding_do_not_talk():
    contracts.assert_padding_inert(
        jax.jit(fbank.subtract_mean), jax.random.normal(jax.random.key(1), (2, 9, 4)), (9, 5)
    )


def test_a_constant_offset_of_the_wav_changes_nothing():
    wav = 0.1 * jax.random.normal(jax.random.key(2), (1, 800))
    np.testing.assert_allclose(fbank.fbank(wav + 0.25), fbank.fbank(wav), atol=2e-3)


def test_only_whole_frames_count():
    counts = fbank.num_frames(jnp.array([0, 399, 400, 559, 560]))
    np.testing.assert_array_equal(counts, [0, 0, 1, 1, 2])
