"""Layers of the source-filter vocoder: snake, weight-normed convolutions, residual blocks.

Every convolution is non-causal and sees zeros beyond the true end of a row, as it would without
padding: callers pass a mask, and `keep` puts zeros there before each convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import boxed
from cosyjax.layers.weight_norm import UNIFORM_START, normed_kernel, weight_norm_kernel
from cosyjax.ops import fast_conv, product
from cosyjax.ops.trig import sin_squared

AXES = (None, None, None)


def keep(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Zeros where `mask` [B, T, 1] is False; None keeps everything."""
    return x if mask is None else jnp.where(mask, x, 0.0)


def snake(x: jax.Array, alpha: jax.Array) -> jax.Array:
    """x + sin(alpha x)**2 / alpha, alpha per channel (Ziyin et al. 2020, arXiv:2006.08195)."""
    return x + sin_squared(alpha * x) * (1.0 / (alpha + 1e-9))


class NormedConv(nn.Module):
    """Weight-normed convolution [B, T, D] -> [B, T', features].

    With kernels="normed" the kernel is a `scale` per channel times a `direction`. With "plain" the
    parameter is the `kernel` that `fold_kernels` computes once; with "tiled" it is, where that is
    faster, the kernel's `points` for convolution by tiles.
    """

    features: int
    width: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    transposed: bool = False
    kernels: str = "normed"
    compute: str = "float32"
    direct: bool = False  # see `ops.product.conv1d`

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.width, x.shape[-1], self.features)
        padding = (self.padding, self.padding)
        bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), shape[2:], jnp.float32)
        if self.kernels == "tiled" and not self.transposed and product.tiles_pay(*shape):
            shape = fast_conv.points_shape(*shape)
            points = self.param("points", boxed(UNIFORM_START, AXES), shape, jnp.float32)
            y = product.conv1d_tiled(
                x, points, width=self.width, dilation=self.dilation, padding=padding
            )
            return y + bias
        kernel = self._kernel(shape)
        if self.transposed:
            y = product.conv1d_transpose(
                x, kernel, stride=self.stride, padding=padding, compute=self.compute
            )
        else:
            y = product.conv1d(
                x,
                kernel,
                stride=self.stride,
                dilation=self.dilation,
                padding=padding,
                compute=self.compute,
                direct=self.direct,
            )
        return y + bias

    def _kernel(self, shape: tuple[int, int, int]) -> jax.Array:
        if self.kernels != "normed":
            return self.param("kernel", boxed(UNIFORM_START, AXES), shape, jnp.float32)
        return weight_norm_kernel(self, shape, AXES, channel_axis=-2 if self.transposed else -1)


class ResidualBlock(nn.Module):
    """Adds, for each dilation, conv(snake(dilated conv(snake(x)))): [B, T, D] -> [B, T, D]."""

    width: int
    dilations: tuple[int, ...]
    kernels: str = "normed"
    compute: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        for i, dilation in enumerate(self.dilations):
            y = self._snake(f"dilated_{i}_alpha", keep(x, mask))
            y = self._conv(channels, dilation, f"dilated_{i}")(y)
            y = self._snake(f"plain_{i}_alpha", keep(y, mask))
            x = x + self._conv(channels, 1, f"plain_{i}")(y)
        return x

    def _snake(self, name: str, x: jax.Array) -> jax.Array:
        ones = boxed(nn.initializers.ones, (None,))
        return snake(x, self.param(name, ones, x.shape[-1:], jnp.float32))

    def _conv(self, channels: int, dilation: int, name: str) -> NormedConv:
        return NormedConv(
            channels,
            self.width,
            dilation=dilation,
            padding=dilation * (self.width - 1) // 2,
            kernels=self.kernels,
            compute=self.compute,
            name=name,
        )


def fold_kernels(params: Mapping[str, Any], *, tiled: bool = False) -> dict[str, Any]:
    """Replaces each (scale, direction) of an unboxed tree by the plain kernel they make.

    Args:
      params: the tree.
      tiled: also turn the kernels of untransposed convolutions into `points` where that pays.
    """
    if not ("direction" in params and "scale" in params):
        return {
            k: fold_kernels(v, tiled=tiled) if isinstance(v, Mapping) else v
            for k, v in params.items()
        }
    direction, scale = jnp.asarray(params["direction"]), jnp.asarray(params["scale"])
    # The channel is the axis that `scale` keeps; where it has one entry any axis will do.
    channel = max(range(scale.ndim), key=lambda axis: (scale.shape[axis], axis))
    kernel = normed_kernel(direction, scale, channel)
    rest = {k: v for k, v in params.items() if k not in ("direction", "scale")}
    if tiled and channel == kernel.ndim - 1 and product.tiles_pay(*kernel.shape):
        return {"points": fast_conv.transform_kernel(kernel), **rest}
    return {"kernel": kernel, **rest}
