"""Sines by polynomial: exact to float32 and vectorised on every backend.

XLA lowers `jnp.sin` on the CPU to code many times slower than the products around it, and the
vocoder takes a sine of every activation. After range reduction five terms are enough.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# pi = PI_HIGH + PI_MID + PI_LOW, the first two short enough that k * part is exact for k < 2**13.
PI_HIGH = np.float32(3.140625)
PI_MID = np.float32(9.67502593994140625e-4)
PI_LOW = np.float32(np.pi - 3.140625 - 9.67502593994140625e-4)
INVERSE_PI = np.float32(1.0 / np.pi)
# sin(r) = r * (terms in r**2) for |r| <= pi / 2, fitted at Chebyshev points; off by 2.4e-8.
SINE_TERMS = tuple(
    np.float32(c)
    for c in (
        0.999999986605412,
        -0.1666665220661459,
        0.008332960277541272,
        -0.0001980395551570274,
        2.5957383258536152e-06,
    )
)


def _half_period_sine(r: jax.Array) -> jax.Array:
    """sin(r) for |r| <= pi / 2."""
    square = r * r
    total = jnp.full_like(r, SINE_TERMS[-1])
    for term in SINE_TERMS[-2::-1]:
        total = total * square + term
    return r * total


def sin_squared(x: jax.Array) -> jax.Array:
    """sin(x)**2 for float32 |x| < 25 000, to 2e-7 absolute.

    The square has period pi and no sign, so the remainder to the nearest multiple of pi is all
    that counts.
    """
    turns = jax.lax.round(x * INVERSE_PI, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
    remainder = ((x - turns * PI_HIGH) - turns * PI_MID) - turns * PI_LOW
    return jnp.square(_half_period_sine(remainder))


def sin_turns(phase: jax.Array) -> jax.Array:
    """sin(2 pi phase / 2**32) for an unsigned 32-bit phase, whose overflow is a whole turn."""
    quarter = np.uint32(1 << 30)
    # Adding a quarter and folding brings every phase to [-1/4, 1/4] of a turn, in integers.
    shifted = phase + quarter
    falling = shifted >= np.uint32(1 << 31)
    folded = jnp.where(falling, np.uint32(1 << 31) - phase, phase)
    signed = jax.lax.bitcast_convert_type(folded, jnp.int32).astype(jnp.float32)
    return _half_period_sine(signed * np.float32(2.0 * np.pi / 2**32))
