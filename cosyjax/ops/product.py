"""Matrix products and one-dimensional convolutions, in a chosen compute type.

`compute` is one of
    "float32"   operands and accumulation in float32
    "bfloat16"  operands rounded to bfloat16, accumulation and result in float32
    "bfloat16x3" each operand split in a high and a low bfloat16 half; three products recover
                about 16 bits of mantissa, so results agree with float32 to about 1e-5
Results are always float32: norms, residual sums and softmax follow in float32.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError

Compute = Literal["float32", "bfloat16", "bfloat16x3"]
COMPUTE_TYPES: tuple[Compute, ...] = ("float32", "bfloat16", "bfloat16x3")


def einsum(subscripts: str, x: jax.Array, y: jax.Array, *, compute: str = "float32") -> jax.Array:
    """Two-operand einsum with operands in `compute` and a float32 result."""
    if compute == "float32":
        return jnp.einsum(
            subscripts, x, y, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST
        )
    if compute == "bfloat16":
        return _einsum_bf16(subscripts, x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
    if compute == "bfloat16x3":
        (x_high, x_low), (y_high, y_low) = _split(x), _split(y)
        return (
            _einsum_bf16(subscripts, x_low, y_high)
            + _einsum_bf16(subscripts, x_high, y_low)
            + _einsum_bf16(subscripts, x_high, y_high)
        )
    raise InputError(f"compute={compute!r}; allowed: {', '.join(COMPUTE_TYPES)}")


def _einsum_bf16(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)


def dense(x: jax.Array, kernel: jax.Array, *, compute: str = "float32") -> jax.Array:
    """[..., D] @ [D, E] -> [..., E] float32."""
    return einsum("...d,de->...e", x, kernel, compute=compute)


def conv1d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, int] = (0, 0),
    compute: str = "float32",
) -> jax.Array:
    """Convolves over time.

    Args:
      x: [B, T, D].
      kernel: [width, D, E].
      stride: frames between outputs.
      dilation: frames between taps.
      padding: zero frames (left, right).
      compute: operand type of the products.

    Returns:
      [B, (T + sum(padding) - dilation * (width - 1) - 1) // stride + 1, E] float32.
    """
    if compute == "float32":
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride,),
            padding=(padding,),
            rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
        )
    width = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    num_out = (x.shape[1] - dilation * (width - 1) - 1) // stride + 1
    last = (num_out - 1) * stride + 1
    taps = [x[:, k * dilation : k * dilation + last : stride] for k in range(width)]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return dense(jnp.concatenate(taps, axis=-1), flat, compute=compute)


def conv1d_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: tuple[int, int] = (0, 0),
    compute: str = "float32",
) -> jax.Array:
    """Transposed convolution over time, as a convolution whose channels are output phases.

    Output frame t * stride + r is the sum over q of x[t - q] @ kernel[q * stride + r], so one
    convolution with `stride * E` channels gives all `stride` phases r at once.

    Args:
      x: [B, T, D].
      kernel: [width, D, E]; tap k of frame t adds to output frame t * stride + k.
      stride: output frames per input frame.
      padding: output frames cut off (left, right).
      compute: operand type of the products.

    Returns:
      [B, (T - 1) * stride + width - sum(padding), E] float32.
    """
    width, inputs, features = kernel.shape
    taps = -(-width // stride)
    kernel = jnp.pad(kernel, ((0, taps * stride - width), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, inputs, features)[::-1]
    kernel = kernel.transpose(0, 2, 1, 3).reshape(taps, inputs, stride * features)
    y = conv1d(x, kernel, padding=(taps - 1, taps - 1), compute=compute)
    total = (x.shape[1] - 1) * stride + width
    return y.reshape(x.shape[0], -1, features)[:, padding[0] : total - padding[1]]
