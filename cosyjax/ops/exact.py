"""Matrix products whose every bit is the same however their rows are cut into calls.

A float32 product depends on the order of its sums, which compilers choose by the shape. Where a
result is summed up over a stream, as F0 is to a phase, that error grows. Here operands are split
into integers of so few bits that all sums of their products are exact in float32, in any order, on
any device (Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1). Everything else that happens to them
is a scaling by powers of two or a single rounding.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

MANTISSA = 24  # bits of a float32
SLICES = 3  # integers per operand: about 20 bits in all


@jax.custom_jvp
def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., D] @ [D, E] -> [..., E] float32, to about 1e-6 of the largest operands' product.

    A row of the result depends on that row of `x` alone, to the last bit.
    """
    flat = x.reshape(-1, x.shape[-1])
    bits = (MANTISSA - math.ceil(math.log2(max(flat.shape[-1], 2)))) // 2
    rows, row_unit = _slices(flat, bits, axis=-1)
    columns, column_unit = _slices(kernel, bits, axis=0)
    # One product of all pairs: a third of it is too small to count, but it reads kernels once.
    pairs = jnp.einsum(
        "itd,jde->ijte", jnp.stack(rows), jnp.stack(columns), precision=jax.lax.Precision.HIGHEST
    )
    total = jnp.zeros(pairs.shape[2:], jnp.float32)
    for order in range(SLICES - 1, -1, -1):  # the smallest first
        for i in range(order + 1):
            total = total + pairs[i, order - i] * np.float32(2.0 ** (-bits * order))
    return (total * row_unit * column_unit).reshape(*x.shape[:-1], -1)


@dense.defjvp
def _dense_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    plain = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return dense(x, kernel), plain(dx, kernel) + plain(x, dkernel)


def _slices(x: jax.Array, bits: int, axis: int) -> tuple[list[jax.Array], jax.Array]:
    """Integers q_i of at most `bits` bits with x = unit * sum_i q_i * 2**(-bits * i), nearly.

    Returns:
      the integers as float32 arrays like `x`, and the unit, a power of two per row or column.
    """
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    # The exponent alone: the power of two at or below the largest value.
    power = jax.lax.bitcast_convert_type(largest, jnp.uint32) & np.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(power, jnp.float32)
    power = jnp.where(power > 0.0, power, 1.0)
    rest = x / power * np.float32(2.0 ** (bits - 1))  # within 2**bits
    parts = []
    for _ in range(SLICES):
        whole = jax.lax.round(rest, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
        parts.append(whole)
        rest = (rest - whole) * np.float32(2.0**bits)
    return parts, power * np.float32(2.0 ** (1 - bits))
