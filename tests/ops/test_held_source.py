"""The source that streams: phases that go on, start anew after a pause and never drift."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import held_source

SAMPLES, RATE = 480, 24_000
OPTIONS = dict(samples_per_frame=SAMPLES, sample_rate_hz=RATE, voiced_threshold_hz=10.0)
WEIGHTS = jnp.array([1.0, 0.5, 0.25])
run = jax.jit(functools.partial(held_source.harmonic_sum, **OPTIONS))
F0 = np.array([[0.0, 110.0, 140.0, 140.0, 0.0, 5.0, 300.0, 300.0]], np.float32)
ZERO = jnp.zeros((1, 3), jnp.uint32)


def reference(f0: np.ndarray) -> np.ndarray:
    """The same in float64."""
    phase, found = np.zeros(3), []
    for hz in f0.astype(np.float64):
        step = hz * np.arange(1, 4) / RATE
        turns = phase + step * np.arange(SAMPLES)[:, None]
        found.append(np.sin(2 * np.pi * turns) @ np.asarray(WEIGHTS) * (hz > 10.0))
        phase = (phase + SAMPLES * step) * (hz > 10.0)
    return np.concatenate(found)


def test_it_is_a_sum_of_sines_that_start_anew_after_unvoiced_frames() -> None:
    np.testing.assert_allclose(run(F0, ZERO, WEIGHTS)[0][0], reference(F0[0]), atol=1e-4)


def test_the_phase_carried_makes_pieces_equal_the_whole_to_the_bit() -> None:
    whole, phases = run(F0, ZERO, WEIGHTS)
    start, pieces = ZERO, []
    for cut in (F0[:, :3], F0[:, 3:5], F0[:, 5:]):
        wave, after = run(cut, start, WEIGHTS)
        start = after[:, -1]
        pieces.append(wave)
    np.testing.assert_array_equal(jnp.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(start, phases[:, -1])


def test_ten_minutes_of_voice_leave_the_phase_exact() -> None:
    f0 = jnp.full((1, 30_000), 125.0)  # 2.5 turns a frame
    voiced = jnp.ones(f0.shape, bool)
    steps = jnp.full((1, 30_000, 1), np.uint32(2.5 * 2**32 % 2**32))
    phases = held_source.frame_phase(steps, voiced, jnp.zeros((1, 1), jnp.uint32))
    np.testing.assert_array_equal(phases[0, ::2, 0], 0)
    np.testing.assert_array_equal(phases[0, 1::2, 0], 2**31)


def test_no_gradient_flows_to_the_pitch() -> None:
    total = lambda f0: jnp.sum(
        jnp.square(held_source.harmonic_sum(f0, ZERO, WEIGHTS, **OPTIONS)[0])
    )
    assert np.all(np.asarray(jax.grad(total)(jnp.asarray(F0))) == 0)
