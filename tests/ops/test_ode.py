"""Grids, Euler steps and guidance in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import ode


def test_the_cosine_grid_runs_from_noise_to_data_and_starts_slowly() -> None:
    grid = ode.cosine_grid(10)
    assert grid[0] == 0.0 and grid[-1] == 1.0 and grid.dtype == np.float32
    np.testing.assert_allclose(grid, 1 - np.cos(np.pi / 2 * np.arange(11) / 10), atol=1e-7)
    assert np.all(np.diff(grid, 2) > 0)


def test_steps_add_up_to_the_grid_in_float32() -> None:
    grid = ode.cosine_grid(7)
    steps = ode.time_steps(grid)
    np.testing.assert_allclose(steps.t, grid[:-1], atol=1e-7)
    np.testing.assert_allclose(steps.t + steps.dt, grid[1:], atol=1e-7)


@pytest.mark.parametrize("grid", [ode.linear_grid(3), ode.cosine_grid(10)])
def test_euler_is_exact_on_a_constant_field(grid: np.ndarray) -> None:
    field = jnp.array([[1.0, -2.0]])
    start = jnp.array([[0.5, 0.5]])
    end, _ = ode.euler(lambda x, t, extra: (field, extra), start, ode.time_steps(grid))
    np.testing.assert_allclose(end, start + field, atol=1e-6)


def test_every_solver_step_keeps_its_own_extra() -> None:
    steps = ode.time_steps(ode.linear_grid(4))
    velocity = lambda x, t, extra: (jnp.zeros_like(x), extra + t)
    _, extras = ode.euler(velocity, jnp.zeros(2), steps, jnp.arange(4.0))
    np.testing.assert_allclose(extras, np.arange(4.0) + steps.t, atol=1e-7)


def test_guidance_of_zero_is_the_conditional_velocity() -> None:
    cond, uncond = jnp.array([1.0, 2.0]), jnp.array([5.0, -7.0])
    np.testing.assert_array_equal(ode.guide(cond, uncond, 0.0), cond)
    np.testing.assert_allclose(ode.guide(cond, uncond, 0.7), 1.7 * cond - 0.7 * uncond, rtol=1e-6)


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="num_steps=0"):
        ode.cosine_grid(0)
