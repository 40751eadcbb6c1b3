"""Dense, convolution, norm and embedding layers whose parameters name their logical axes.

Parameters are float32. Products take their operands in `compute` (see `ops.product`); norms are
computed in float32. Convolution kernels are [width, in, out], dense kernels [in, out].
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.ops import product

Axes = Sequence[str | None]
# A dense layer adds (x @ down) @ up where its parameters hold these; see train/tasks/lora.py.
LORA_DOWN, LORA_UP = "lora_down", "lora_up"


def boxed(init: nn.initializers.Initializer, axes: Axes) -> nn.initializers.Initializer:
    """Wraps an initializer so that the parameter carries logical axis names."""
    return nn.with_logical_partitioning(init, tuple(axes))


class Dense(nn.Module):
    """[..., D] -> [..., features]; `axes` name the kernel's (in, out) dimensions."""

    features: int
    axes: Axes = (None, None)
    use_bias: bool = True
    compute: str = "float32"
    result: str = "float32"  # type of the product; what is added to it is float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = boxed(nn.initializers.lecun_normal(), self.axes)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        axes = tuple(self.axes) if any(self.axes) else ()
        y = product.dense(x, kernel, compute=self.compute, axes=axes, result=self.result)
        if self.has_variable("params", LORA_UP):
            low = product.dense(x, self._kept(LORA_DOWN), compute=self.compute)
            y = y + product.dense(low, self._kept(LORA_UP), compute=self.compute)
        if self.use_bias:
            zeros = boxed(nn.initializers.zeros, self.axes[1:])
            y = y + self.param("bias", zeros, (self.features,), jnp.float32)
        return y

    def _kept(self, name: str) -> jax.Array:
        return self.get_variable("params", name)


class Conv(nn.Module):
    """[B, T, D] -> [B, T', features]; zero padding, see `ops.product.conv1d`."""

    features: int
    width: int
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    axes: Axes = (None, None, None)
    use_bias: bool = True
    compute: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = boxed(nn.initializers.lecun_normal(), self.axes)
        shape = (self.width, x.shape[-1], self.features)
        y = product.conv1d(
            x,
            self.param("kernel", init, shape, jnp.float32),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            compute=self.compute,
        )
        if self.use_bias:
            zeros = boxed(nn.initializers.zeros, self.axes[2:])
            y = y + self.param("bias", zeros, (self.features,), jnp.float32)
        return y


class LayerNorm(nn.Module):
    """Normalises the last dimension to zero mean and unit variance, then scale and bias."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (x.shape[-1],)
        scale = self.param("scale", boxed(nn.initializers.ones, (None,)), size, jnp.float32)
        bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), size, jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


class RMSNorm(nn.Module):
    """Divides the last dimension by its root mean square, then scale."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (x.shape[-1],)
        scale = self.param("scale", boxed(nn.initializers.ones, (None,)), size, jnp.float32)
        x = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + self.epsilon) * scale


class Embed(nn.Module):
    """Rows of a table: int [...] -> float32 [..., features]."""

    num_rows: int
    features: int
    axes: Axes = ("vocab", "embed")
    stddev: float = 0.02

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        init = boxed(nn.initializers.normal(self.stddev), self.axes)
        table = self.param("embedding", init, (self.num_rows, self.features), jnp.float32)
        return jnp.take(table, ids, axis=0)
