"""Time grids, the Euler solver and classifier-free guidance of flow matching.

CosyVoice 2 (arXiv 2412.10117) section 2.4. Time runs from 0 (noise) to 1 (data).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError


class TimeSteps(NamedTuple):
    """Where the velocity is asked (`t` [S]) and how far to go from there (`dt` [S]), float32."""

    t: np.ndarray
    dt: np.ndarray


def linear_grid(num_steps: int) -> np.ndarray:
    """Evenly spaced times 0 .. 1: float32 [num_steps + 1]."""
    if num_steps < 1:
        raise InputError(f"num_steps={num_steps}; it must be 1 or more, 10 is usual")
    return np.linspace(0.0, 1.0, num_steps + 1).astype(np.float32)


def cosine_grid(num_steps: int) -> np.ndarray:
    """1 - cos(pi t / 2) of even times: float32 [num_steps + 1], dense near the noise."""
    angle = linear_grid(num_steps) * np.float32(0.5) * np.float32(np.pi)
    return np.float32(1.0) - np.cos(angle)


def time_steps(grid: np.ndarray) -> TimeSteps:
    """Cuts a grid into steps.

    The official loop adds each step to a float32 time and takes the next step from there to the
    grid; the rounding of that sum is kept.
    """
    t = np.float32(grid[0])
    times, steps = [], []
    for following in grid[1:]:
        dt = np.float32(following - t)
        times.append(t)
        steps.append(dt)
        t = np.float32(t + dt)
    return TimeSteps(np.asarray(times, np.float32), np.asarray(steps, np.float32))


def euler(
    velocity: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    steps: TimeSteps,
    extra: Any = None,
) -> tuple[jax.Array, Any]:
    """Solves dx/dt = velocity with one Euler step per entry of `steps`.

    Args:
      velocity: (x, t, extra of this step) -> (velocity like x, new extra of this step).
      x: the start, at t = steps.t[0]; float32.
      steps: times and step sizes.
      extra: a tree whose leaves lead with [S]: what each solver step knows or remembers.

    Returns:
      x at the end, and the new extras, stacked like `extra`.
    """

    def one(x: jax.Array, now: Any) -> tuple[jax.Array, Any]:
        t, dt, mine = now
        v, mine = velocity(x, t, mine)
        return x + dt * v, mine

    return jax.lax.scan(one, x, (jnp.asarray(steps.t), jnp.asarray(steps.dt), extra))


def guide(cond: jax.Array, uncond: jax.Array, scale: jax.Array | float) -> jax.Array:
    """(1 + scale) cond - scale uncond; scale 0 is the conditional velocity alone."""
    return (1.0 + scale) * cond - scale * uncond
