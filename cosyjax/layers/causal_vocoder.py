"""Layers of the causal vocoder: each sees its input and what came before, which is its state.

A state holds the last frames of a layer's input, [B, n, D] float32; None stands for the silence
before the start, all zeros. `advance` [B] int32 says by how many input frames each row goes on,
where rows end or wait; None stands for all of them. `keep` takes the frames before a row's start
out, so that a row that begins within a call hears zeros before it.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.layers.basic import boxed
from cosyjax.layers.vocoder import AXES, NormedConv, fold_kernels, keep, snake
from cosyjax.layers.weight_norm import weight_norm_kernel
from cosyjax.ops import fast_conv, product

BEHIND_FRAMES = 2  # that a look-ahead convolution sees before the present one


class Span(NamedTuple):
    """Which frames of a call are those of its rows; None means all."""

    start: jax.Array | None = None  # [B] int32; frames before it lie before the row's start
    advance: jax.Array | None = None  # [B] int32; by so many frames the row goes on

    def started(self, num: int, rate: int = 1) -> jax.Array | None:
        """[B, num, 1] bool, False before the start; `rate` steps make a frame."""
        if self.start is None:
            return None
        return (jnp.arange(num) >= self.start[:, None] * rate)[..., None]

    def spoken(self, num: int, rate: int = 1) -> jax.Array | None:
        """[B, num, 1] bool, True from the start to where the row goes on from."""
        mask = self.started(num, rate)
        if self.advance is None:
            return mask
        inside = (jnp.arange(num) < self.advance[:, None] * rate)[..., None]
        return inside if mask is None else mask & inside

    def at(self, rate: int) -> jax.Array | None:
        """`advance` in steps."""
        return None if self.advance is None else self.advance * rate


ALL = Span()


def silence(batch: int, frames: int, channels: int) -> jax.Array:
    """The state before the start."""
    return jnp.zeros((batch, frames, channels), jnp.float32)


def remember(joined: jax.Array, size: int, advance: jax.Array | None = None) -> jax.Array:
    """The `size` frames before the place that each row of [B, size + T, ...] has reached."""
    if advance is None:
        return joined[:, joined.shape[1] - size :]
    cut = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size)
    return jax.vmap(cut)(joined, advance)


def join(
    x: jax.Array, state: jax.Array | None, size: int, advance: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Puts the `size` frames before `x` [B, T, D] in front; returns ([B, size + T, D], state)."""
    if state is None:
        state = silence(x.shape[0], size, x.shape[2])
    joined = jnp.concatenate([state, x], axis=1)
    return joined, remember(joined, size, advance)


class CausalNormedConv(NormedConv):
    """Weight-normed convolution [B, T, D] -> [B, T, features] over present and past frames."""

    @property
    def context(self) -> int:
        """Frames before the present one that it sees."""
        return self.dilation * (self.width - 1)

    def init_state(self, batch: int, channels: int) -> jax.Array:
        """Silence."""
        return silence(batch, self.context, channels)

    def step(
        self, x: jax.Array, state: jax.Array | None, advance: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (y [B, T, features], state)."""
        joined, state = join(x, state, self.context, advance)
        return self(joined), state


class RepeatConv(nn.Module):
    """Repeats every frame, then a causal convolution: [B, T, D] -> [B, T * rate, features].

    Computed at the lower rate: the outputs of a frame are channels of one convolution, whose taps
    are sums of the kernel's. `fold_repeat` stores those.
    """

    features: int
    width: int
    rate: int
    kernels: str = "normed"
    compute: str = "float32"

    @property
    def context(self) -> int:
        """Frames before the present one that it sees."""
        return -(-(self.width - 1) // self.rate)

    def init_state(self, batch: int, channels: int) -> jax.Array:
        """Silence."""
        return silence(batch, self.context, channels)

    def step(
        self, x: jax.Array, state: jax.Array | None, advance: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (y [B, T * rate, features], state)."""
        joined, state = join(x, state, self.context, advance)
        return self(joined), state

    @nn.compact
    def __call__(self, joined: jax.Array) -> jax.Array:
        batch, _, channels = joined.shape
        if self.kernels == "normed":
            shape = (self.width, channels, self.features)
            bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), shape[2:])
            kernel = repeated_kernel(weight_norm_kernel(self, shape, AXES), self.rate)
            y = product.conv1d(joined, kernel, compute=self.compute) + jnp.tile(bias, self.rate)
        else:
            conv = NormedConv(
                self.rate * self.features,
                1 + self.context,
                kernels=self.kernels,
                compute=self.compute,
                name="folded",
            )
            y = conv(joined)
        return y.reshape(batch, -1, self.features)


def repeated_kernel(kernel: jax.Array, rate: int) -> jax.Array:
    """[width, D, E] over repeated frames -> [taps, D, rate * E] over the frames themselves."""
    width, inputs, features = kernel.shape
    context = -(-(width - 1) // rate)
    phase, tap = np.arange(rate)[:, None], np.arange(width)
    frame = context + (phase - (width - 1) + tap) // rate  # [rate, width]
    chosen = (np.arange(context + 1)[:, None, None] == frame).astype(np.float32)
    sums = product.einsum("ipw,wde->idpe", jnp.asarray(chosen), kernel)
    return sums.reshape(context + 1, inputs, rate * features)


def fold_repeat(params: dict, rate: int, *, tiled: bool) -> dict:
    """Parameters of a `RepeatConv` with its kernel computed; see `fold_kernels`."""
    plain = fold_kernels(params)
    kernel, bias = repeated_kernel(plain["kernel"], rate), jnp.tile(plain["bias"], rate)
    if tiled and product.tiles_pay(*kernel.shape):
        return {"folded": {"points": fast_conv.transform_kernel(kernel), "bias": bias}}
    return {"folded": {"kernel": kernel, "bias": bias}}


class CausalResidualBlock(nn.Module):
    """`ResidualBlock` with causal convolutions and the same parameters."""

    width: int
    dilations: tuple[int, ...]
    kernels: str = "normed"
    compute: str = "float32"

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.step(x, None)[0]

    def init_state(self, batch: int, channels: int) -> tuple[jax.Array, ...]:
        """Silence before each convolution."""
        pairs = [(dilation, 1) for dilation in self.dilations]
        spans = [(self.width - 1) * dilation for pair in pairs for dilation in pair]
        return tuple(silence(batch, span, channels) for span in spans)

    @nn.compact
    def step(
        self,
        x: jax.Array,
        state: tuple[jax.Array, ...] | None,
        mask: jax.Array | None = None,
        advance: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Advances by `x` [B, T, D]; False in `mask` [B, T, 1] lies before a row's start."""
        before = iter((None,) * (2 * len(self.dilations)) if state is None else state)
        after = []
        for i, dilation in enumerate(self.dilations):
            y = x
            for name, spread in ((f"dilated_{i}", dilation), (f"plain_{i}", 1)):
                conv = self._conv(x.shape[-1], spread, name)
                y, own = conv.step(self._snake(name, keep(y, mask)), next(before), advance)
                after.append(own)
            x = x + y
        return x, tuple(after)

    def _snake(self, name: str, x: jax.Array) -> jax.Array:
        ones = boxed(nn.initializers.ones, (None,))
        return snake(x, self.param(f"{name}_alpha", ones, x.shape[-1:], jnp.float32))

    def _conv(self, channels: int, dilation: int, name: str) -> CausalNormedConv:
        return CausalNormedConv(
            channels,
            self.width,
            dilation=dilation,
            kernels=self.kernels,
            compute=self.compute,
            name=name,
        )
