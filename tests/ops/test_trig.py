import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.ops import trig


def test_sin_squared_equals_the_sine_of_float64_squared():
    x = np.random.default_rng(0).uniform(-2000.0, 2000.0, 20_000).astype(np.float32)
    np.testing.assert_allclose(
        trig.sin_squared(jnp.asarray(x)), np.sin(x.astype(np.float64)) ** 2, atol=2e-7
    )


def test_sin_squared_has_the_slope_of_a_sine_of_twice_the_angle():
    x = np.linspace(-20.0, 20.0, 501, dtype=np.float32)
    slope = jax.vmap(jax.grad(trig.sin_squared))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.sin(2.0 * x.astype(np.float64)), atol=2e-6)


def test_sin_turns_covers_the_whole_turn():
    phase = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    wanted = np.sin(2 * np.pi * phase.astype(np.float64) / 2**32)
    np.testing.assert_allclose(trig.sin_turns(jnp.asarray(phase)), wanted, atol=2e-7)
