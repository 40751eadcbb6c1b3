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
from cosyjax.layers.weight_norm import UNIFORM_START, channel_norm, weight_norm_kernel
from cosyjax.ops import product
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

    With `weight_norm` the kernel is a `scale` per channel times a `direction`; without, the
    parameter is the plain `kernel` that `fold_weight_norm` computes once.
    """

    features: int
    width: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    transposed: bool = False
    weight_norm: bool = True
    compute: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.width, x.shape[-1], self.features)
        if self.weight_norm:
            axis = -2 if self.transposed else -1
            kernel = weight_norm_kernel(self, shape, AXES, channel_axis=axis)
        else:
            kernel = self.param("kernel", boxed(UNIFORM_START, AXES), shape, jnp.float32)
        bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), shape[2:], jnp.float32)
        padding = (self.padding, self.padding)
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
            )
        return y + bias


class ResidualBlock(nn.Module):
    """Adds, for each dilation, conv(snake(dilated conv(snake(x)))): [B, T, D] -> [B, T, D]."""

    width: int
    dilations: tuple[int, ...]
    weight_norm: bool = True
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
            weight_norm=self.weight_norm,
            compute=self.compute,
            name=name,
        )


def fold_kernels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces each (scale, direction) of an unboxed tree by the plain kernel they make."""
    if "direction" in params and "scale" in params:
        direction, scale = jnp.asarray(params["direction"]), jnp.asarray(params["scale"])
        # The channel is the axis that `scale` keeps; where it has one entry any axis will do.
        channel = max(range(scale.ndim), key=lambda axis: (scale.shape[axis], axis))
        kernel = direction * (scale / channel_norm(direction, channel))
        rest = {k: v for k, v in params.items() if k not in ("direction", "scale")}
        return {"kernel": kernel, **rest}
    return {k: fold_kernels(v) if isinstance(v, Mapping) else v for k, v in params.items()}
