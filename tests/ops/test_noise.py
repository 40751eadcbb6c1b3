"""Noise is a function of the absolute frame."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import noise


def test_noise_of_a_frame_does_not_depend_on_how_the_call_was_cut() -> None:
    key = jax.random.key(3)
    whole = noise.frame_noise(key, jnp.arange(10), 4)
    parts = [noise.frame_noise(key, jnp.arange(a, b), 4) for a, b in ((0, 3), (3, 10))]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))
    assert len(np.unique(np.asarray(whole))) == whole.size


def test_rows_may_stand_at_different_frames() -> None:
    key, frames = jax.random.key(3), jnp.array([[0, 1], [7, 8]])
    rows = noise.frame_noise(key, frames, 4)
    np.testing.assert_array_equal(rows[1], noise.frame_noise(key, jnp.array([7, 8]), 4))


def test_the_official_buffer_is_standard_normal_and_read_only() -> None:
    buffer = noise.official_noise()
    assert buffer.shape == (noise.OFFICIAL_FRAMES, 80) and buffer.dtype == np.float32
    assert abs(buffer.mean()) < 2e-3 and abs(buffer.std() - 1) < 2e-3
    assert not buffer.flags.writeable


def test_a_buffer_repeats_after_its_end() -> None:
    buffer = jnp.arange(6.0).reshape(3, 2)
    taken = noise.buffer_noise(buffer, jnp.array([2, 3]))
    np.testing.assert_array_equal(taken, [[4.0, 5.0], [0.0, 1.0]])
