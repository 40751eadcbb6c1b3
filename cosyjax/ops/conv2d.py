"""Two-dimensional convolution in a chosen compute type (see `ops.product`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosyjax.ops import product


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    compute: str = "float32",
) -> jax.Array:
    """Convolves over two axes, zeros outside.

    Args:
      x: [B, height, width, D].
      kernel: [kernel height, kernel width, D, E].
      stride: steps along (height, width).
      padding: zeros on both sides of (height, width).
      compute: operand type of the products.

    Returns:
      [B, height', width', E] float32.
    """
    pads = tuple((n, n) for n in padding)
    if compute == "float32":
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=stride,
            padding=pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
        )
    # Products by taps: the gradient of a convolution with mixed operand types is not defined.
    rows, columns = kernel.shape[:2]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    last_row, last_column = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    taps = [
        x[:, i : i + last_row : stride[0], j : j + last_column : stride[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return product.dense(jnp.concatenate(taps, axis=-1), flat, compute=compute)
