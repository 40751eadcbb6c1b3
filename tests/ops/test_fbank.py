"""Kaldi's filterbank energies."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import fbank
from tests import contracts
from tests.drawn import normal

FBANK = jax.jit(fbank.fbank)


def test_fbank_equals_the_golden_file(golden):
    from safetensors.numpy import load_file

    tensors = load_file(golden / "fbank_campplus.safetensors")
    actual = np.asarray(FBANK(tensors["in.wav1"][None]))[0]
    expected = tensors["out.fbank1"]
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std(), rtol=0)


def test_padding_changes_no_energy():
    @jax.jit
    def normalised(wav, num_samples):
        energies = fbank.fbank(wav, num_samples)
        return fbank.subtract_mean(energies, fbank.num_frames(num_samples))[:, :5]

    wav, lengths = normal(2, 1600), np.array([1600, 1000])  # 8 and 4 frames
    valid = np.arange(1600) < lengths[:, None]
    poison = np.where(valid, wav, np.float32(np.nan))
    poisoned = np.asarray(normalised(poison, lengths))
    alone = np.asarray(normalised(wav[1:, :1000], lengths[1:]))
    np.testing.assert_allclose(poisoned[1, :4], alone[0, :4], atol=2e-5)
    assert np.all(poisoned[1, 4:] == 0) and np.all(np.isfinite(poisoned))


def test_after_the_last_whole_frame_there_are_zeros_and_no_gradient():
    @jax.jit
    def run(wav):
        energies, pull = jax.vjp(lambda w: fbank.fbank(w, jnp.array([1000])), wav)
        return energies, pull(jnp.ones_like(energies))[0]

    wav = normal(1, 1600)
    wav[:, 1000:] = np.nan
    energies, gradient = jax.device_get(run(wav))
    assert np.all(energies[:, 4:] == 0) and np.all(np.isfinite(energies))
    assert np.all(gradient[:, 1000:] == 0) and np.all(np.isfinite(gradient))


def test_rows_and_padding_do_not_talk():
    contracts.assert_padding_inert(jax.jit(fbank.subtract_mean), normal(2, 9, 4), (9, 5))


def test_a_constant_offset_of_the_wav_changes_nothing():
    wav = np.float32(0.1) * normal(1, 800)
    np.testing.assert_allclose(FBANK(wav + np.float32(0.25)), FBANK(wav), atol=2e-3)


def test_only_whole_frames_count():
    counts = jax.jit(fbank.num_frames)(np.array([0, 399, 400, 559, 560]))
    np.testing.assert_array_equal(counts, [0, 0, 1, 1, 2])
