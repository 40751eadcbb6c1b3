"""Weight normalisation: a kernel as a length per channel times a direction.

kernel = scale * direction / ||direction|| (Salimans and Kingma 2016, arXiv:1602.07868). The norm
runs over every axis but the channel's. For a convolution the channel is the output; the official
transposed convolutions normalise per INPUT channel, because their kernels store that one first.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import boxed

# Uniform within 1 / sqrt(fan in), the start that the official convolutions have.
UNIFORM_START = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def channel_norm(direction: jax.Array, channel_axis: int = -1) -> jax.Array:
    """Returns the length of each channel's part, with every other axis kept at size 1."""
    channel = channel_axis % direction.ndim
    others = tuple(axis for axis in range(direction.ndim) if axis != channel)
    return jnp.sqrt(jnp.sum(jnp.square(direction), axis=others, keepdims=True))


def normed_kernel(direction: jax.Array, scale: jax.Array, channel_axis: int = -1) -> jax.Array:
    """Returns scale * direction / ||direction||, float32, of any rank.

    Args:
      direction: the kernel's direction, such as [width, in, out].
      scale: length per channel; the rank of `direction` with size 1 except at the channel.
      channel_axis: which axis of `direction` keeps its own length.
    """
    return direction * (scale / channel_norm(direction, channel_axis))


def weight_norm_kernel(
    module: nn.Module,
    shape: Sequence[int],
    axes: Sequence[str | None],
    *,
    channel_axis: int = -1,
    init: nn.initializers.Initializer = UNIFORM_START,
) -> jax.Array:
    """Declares `direction` and `scale` on the module that calls it and returns the kernel.

    The first scale is the length of the first direction, so the kernel starts as drawn.

    Args:
      module: the module that owns the two parameters; call from its compact or setup method.
      shape: of the kernel, channels last, such as [width, in, out] or [height, width, in, out].
      axes: logical names of the kernel's axes.
      channel_axis: -1 for convolutions, -2 (inputs) for transposed ones.
      init: draws the direction.

    Returns:
      float32 kernel of `shape`.
    """
    shape, channel = tuple(shape), channel_axis % len(shape)
    direction = module.param("direction", boxed(init, axes), shape, jnp.float32)
    size = tuple(n if axis == channel else 1 for axis, n in enumerate(shape))
    names = tuple(name if axis == channel else None for axis, name in enumerate(axes))
    start = boxed(lambda key, size: channel_norm(direction, channel_axis), names)
    scale = module.param("scale", start, size)
    return normed_kernel(direction, scale, channel_axis)
