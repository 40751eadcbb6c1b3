"""Finite scalar quantization (FSQ): bounded features to codes to tokens and back.

CosyVoice 2 (arXiv 2412.10117) section 2.2, Eqs. 1 and 2: each of Q dimensions is rounded to one of
2K + 1 = `num_levels` values -K..K; a token is the number whose digits are the codes, the first
dimension least significant. The released tokenizer has Q = 8, K = 1: 3 ** 8 = 6561 tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError

# 0.999 in float32 as the released graph stores it, widened: |bounded| < 1, so no code is +-(K + 1).
OFFICIAL_SCALE = 0.9990000128746033
MAX_TOKENS = 2**31 - 1


def check_levels(num_dims: int, num_levels: int) -> None:
    """Raises InputError unless the levels are odd (0 is a level) and tokens fit int32."""
    if num_levels < 3 or num_levels % 2 == 0:
        raise InputError(
            f"num_levels={num_levels} must be odd and at least 3, so that 0 is a level"
        )
    if num_dims < 1 or num_levels**num_dims > MAX_TOKENS:
        raise InputError(f"num_dims={num_dims}, num_levels={num_levels}: tokens do not fit int32")


def bound(x: jax.Array, num_levels: int = 3, scale: float = OFFICIAL_SCALE) -> jax.Array:
    """Squeezes x into (-K, K), in float32.

    Differs: the paper says only that each dimension is bounded to [-K, K]; `scale=1` is plain
    K tanh(x). The released model multiplies by `OFFICIAL_SCALE`, which moves the rounding edge
    from |x| = 0.5493 to 0.5500.
    """
    return num_levels // 2 * (scale * jnp.tanh(x.astype(jnp.float32)))


def round_ste(x: jax.Array) -> jax.Array:
    """Rounds to the nearest integer, ties to even; the gradient passes unchanged."""
    # The second term is zero whatever x is: the value is the integer itself.
    return jax.lax.stop_gradient(jnp.round(x)) + (x - jax.lax.stop_gradient(x))  # Eq. 1


def codes_to_tokens(codes: jax.Array, num_levels: int = 3) -> jax.Array:
    """Codes [..., Q] in -K..K to int32 tokens [...] in [0, num_levels ** Q)."""
    digits = jnp.round(codes).astype(jnp.int32) + num_levels // 2
    weights = num_levels ** jnp.arange(codes.shape[-1], dtype=jnp.int32)
    return jnp.sum(digits * weights, axis=-1, dtype=jnp.int32)  # Eq. 2


def tokens_to_codes(tokens: jax.Array, num_dims: int = 8, num_levels: int = 3) -> jax.Array:
    """Int tokens [...] to float32 codes [..., num_dims] in -K..K, the inverse of the above."""
    weights = num_levels ** jnp.arange(num_dims, dtype=jnp.int32)
    digits = tokens[..., None] // weights % num_levels
    return (digits - num_levels // 2).astype(jnp.float32)
