import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import source

RATE = 24_000
SAMPLES = 480
OPTIONS = dict(sample_rate_hz=RATE, amplitude=0.1, noise_std=0.003, voiced_threshold_hz=10.0)
sine_waves = jax.jit(
    functools.partial(source.sine_waves, **OPTIONS), static_argnames="num_harmonics"
)
frame_noise = jax.jit(
    source.frame_noise, static_argnums=1, static_argnames=("samples_per_frame", "channels")
)


def reference_phase(f0, num_harmonics):
    """Phase in turns, float64: known at frame centres, straight between, still at both ends."""
    multiples = np.arange(1, num_harmonics + 2, dtype=np.float32)
    steps = (np.float32(f0)[:, None] * multiples / np.float32(RATE)).astype(np.float64) % 1.0
    centres = np.cumsum(steps, axis=0) * SAMPLES
    at = (np.arange(len(f0) * SAMPLES) + 0.5) / SAMPLES - 0.5
    columns = [np.interp(at, np.arange(len(f0)), column) for column in centres.T]
    return np.stack(columns, axis=1)


def sines(f0, num_harmonics=2):
    f0 = np.asarray(f0, np.float32)
    noise = np.zeros((1, f0.shape[1] * SAMPLES, num_harmonics + 1), np.float32)
    return sine_waves(f0, noise, num_harmonics=num_harmonics)


def test_phase_is_exact_after_ten_seconds():
    f0 = np.random.default_rng(0).uniform(80.0, 400.0, 500).astype(np.float32)
    waves = np.asarray(sines(f0[None], num_harmonics=8))[0]
    wanted = 0.1 * np.sin(2 * np.pi * reference_phase(f0, 8))
    np.testing.assert_allclose(waves[-9600:], wanted[-9600:], atol=2e-6)


def test_constant_f0_gives_sines_of_its_multiples():
    waves = np.asarray(sines([[300.0] * 40]))[0, 240:-240]
    spectrum = np.abs(np.fft.rfft(waves * np.hanning(len(waves))[:, None], axis=0))
    peaks = np.argmax(spectrum, axis=0) * RATE / len(waves)
    np.testing.assert_allclose(peaks, [300.0, 600.0, 900.0], atol=RATE / len(waves))


def test_phase_does_not_jump_where_f0_does():
    waves = np.asarray(sines([[110.0, 390.0, 55.0, 210.0]], num_harmonics=0))[0, :, 0]
    assert np.max(np.abs(np.diff(waves))) < 0.1 * 2 * np.pi * 390.0 / RATE * 1.01


def test_unvoiced_frames_hold_noise_only():
    noise = np.ones((1, 2 * SAMPLES, 1), np.float32)
    waves = np.asarray(sine_waves(np.float32([[5.0, 100.0]]), noise, num_harmonics=0))
    np.testing.assert_allclose(waves[0, :SAMPLES], 0.1 / 3, rtol=1e-6)
    assert np.max(waves[0, SAMPLES:]) > 0.09


def test_noise_depends_on_the_absolute_frame_and_not_on_the_cut():
    key, sizes = jax.random.key(3), dict(samples_per_frame=4, channels=2)
    whole = np.asarray(frame_noise(key, 6, **sizes))
    tail = frame_noise(key, 2, first_frame=np.int32(4), **sizes)
    np.testing.assert_array_equal(whole[:, 16:], tail)


def test_noise_of_several_keys_is_each_row_alone():
    keys, sizes = jax.random.split(jax.random.key(3), 2), dict(samples_per_frame=4, channels=2)
    both = np.asarray(frame_noise(keys, 3, **sizes))
    np.testing.assert_array_equal(both[1:], frame_noise(keys[1], 3, **sizes))


def test_noise_of_rows_at_different_places_is_each_row_alone():
    key, sizes = jax.random.key(3), dict(samples_per_frame=4, channels=1)
    both = np.asarray(frame_noise(key, 3, first_frame=np.array([-2, 5]), **sizes))
    np.testing.assert_array_equal(both[1:], frame_noise(key, 3, first_frame=5, **sizes))
    np.testing.assert_array_equal(both[:1, 8:], frame_noise(key, 1, **sizes))


def test_the_phase_goes_on_where_a_call_before_has_left_it():
    f0 = np.random.default_rng(0).uniform(80.0, 400.0, (2, 7)).astype(np.float32)
    steps = source.phase_steps(f0, 2, RATE)
    whole = np.asarray(source.harmonic_phase(steps, SAMPLES))
    num = np.array([0, 3])  # a row that begins and one that goes on
    after = source.phase_after(np.zeros((2, 3), np.uint32), steps, SAMPLES, num)
    start = source.Start(after, num > 0)
    tail = jnp.stack([steps[0, :4], steps[1, 3:]])
    got = source.harmonic_phase(tail, SAMPLES, start)
    np.testing.assert_array_equal(got[0, : 3 * SAMPLES], whole[0, : 3 * SAMPLES])
    np.testing.assert_array_equal(got[1], whole[1, 3 * SAMPLES :])
