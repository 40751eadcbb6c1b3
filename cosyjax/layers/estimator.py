"""Parts of the flow's velocity estimator: time embedding, causal resnet block, transformer block.

Everything along time is causal or masked in chunks, so every part streams; `step` with the state
None is the call on a whole utterance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cosyjax.layers.basic import Conv, Dense, LayerNorm
from cosyjax.layers.chunk_cache import (
    ChunkCache,
    attend_cached,
    default_mask,
    extend,
    init_cache,
)
from cosyjax.layers.conv import CausalConv
from cosyjax.ops import heads, splash

TIME_SCALE = 1000.0


def mish(x: jax.Array) -> jax.Array:
    """x tanh(softplus(x)), with one exponential: tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)."""
    e = jnp.exp(jnp.minimum(x, 20.0))  # beyond 20 the factor is 1 in float32
    product = e * (e + 2.0)
    return x * (product / (product + 2.0))


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU; by erf, which costs a third of the erfc in `jax.nn.gelu` on CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.float32(math.sqrt(0.5))))


def time_sinusoid(t: jax.Array, dim: int) -> jax.Array:
    """Sines, then cosines, of 1000 t at dim / 2 rates from 1 to 1 / 10000: [S] -> [S, dim]."""
    half = dim // 2
    # Rounded once, from float64: angles reach 1000, where the last bit of a rate is 6e-5.
    falling = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000.0) / (half - 1))
    angle = TIME_SCALE * t[:, None] * np.exp(falling.astype(np.float64)).astype(np.float32)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class TimeEmbedding(nn.Module):
    """t [S] in [0, 1] -> [S, features]; in float32, it is a few rows."""

    sinusoid_dim: int
    features: int

    def setup(self) -> None:
        self.dense_in = Dense(self.features, axes=(None, "mlp"))
        self.dense_out = Dense(self.features, axes=("mlp", None))

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.dense_out(jax.nn.silu(self.dense_in(time_sinusoid(t, self.sinusoid_dim))))


class CausalBlock(nn.Module):
    """Causal convolution, norm over channels, Mish: [B, F, in_features] -> [B, F, features]."""

    in_features: int
    features: int
    width: int = 3
    compute: str = "float32"

    def setup(self) -> None:
        self.conv = CausalConv(self.in_features, self.features, self.width, self.compute)
        self.norm = LayerNorm(1e-5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.step(x, None)[0]

    def init_state(self, batch: int) -> jax.Array:
        """Returns the frames before the start."""
        return self.conv.init_state(batch)

    def step(self, x: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Advances by `x` [B, C, in_features]."""
        y, state = self.conv.step(x, state)
        return mish(self.norm(y)), state


class ResnetState(struct.PyTreeNode):
    """Left frames of the two convolutions, [B, width - 1, ...] each."""

    first: jax.Array
    second: jax.Array


class CausalResnet(nn.Module):
    """Two causal blocks with the time added between them, and a shortcut."""

    in_features: int
    features: int
    width: int = 3
    compute: str = "float32"

    def setup(self) -> None:
        sizes = (self.features, self.width, self.compute)
        self.first = CausalBlock(self.in_features, *sizes)
        self.second = CausalBlock(self.features, *sizes)
        self.time = Dense(self.features, axes=("mlp", "embed"))
        self.shortcut = Conv(
            self.features, width=1, axes=(None, None, "embed"), compute=self.compute
        )

    def shift(self, time: jax.Array) -> jax.Array:
        """What a time embedding [S, D] adds after the first block: [S, features]."""
        return self.time(mish(time))

    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        return self.step(x, None, shift)[0]

    def init_state(self, batch: int) -> ResnetState:
        """Returns the frames before the start."""
        return ResnetState(self.first.init_state(batch), self.second.init_state(batch))

    def step(
        self, x: jax.Array, state: ResnetState | None, shift: jax.Array | None = None
    ) -> tuple[jax.Array, ResnetState]:
        """Advances by `x` [B, C, in_features]; `shift` [B or 1, features] comes from the time."""
        y, first = self.first.step(x, None if state is None else state.first)
        if shift is not None:
            y = y + shift[:, None]
        y, second = self.second.step(y, None if state is None else state.second)
        return y + self.shortcut(x), ResnetState(first, second)


class ChunkTransformer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); no positions inside."""

    features: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    chunk: int = 0  # frames per mask chunk where no mask is given; 0 sees everything
    compute: str = "float32"
    fused: bool = False  # query, key and value in one product, an inference-only form
    attention: str = "whole"  # or one of splash.KERNELS, for whole utterances

    def setup(self) -> None:
        inner = self.num_heads * self.head_dim
        dense = lambda size, axes, bias: Dense(size, axes=axes, use_bias=bias, compute=self.compute)
        self.attention_norm, self.mlp_norm = LayerNorm(1e-5), LayerNorm(1e-5)
        if self.fused:
            self.qkv = dense(3 * inner, ("embed", "heads"), False)
        else:
            self.query, self.key, self.value = (
                dense(inner, ("embed", "heads"), False) for _ in range(3)
            )
        self.out = dense(self.features, ("heads", "embed"), True)
        self.mlp_in = dense(self.mlp_dim, ("embed", "mlp"), True)
        self.mlp_out = dense(self.features, ("mlp", "embed"), True)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        return self.step(x, None, mask)[0]

    def init_state(self, batch: int, max_frames: int) -> ChunkCache:
        """Returns an empty cache of `max_frames` frames."""
        return init_cache(batch, max_frames, self.num_heads, self.head_dim, self.compute)

    def step(
        self, x: jax.Array, state: ChunkCache | None, mask: jax.Array | None = None
    ) -> tuple[jax.Array, ChunkCache | None]:
        """Advances by whole mask chunks.

        Args:
          x: [B, C, features].
          state: cache of L frames, or None for a whole utterance (L = 0).
          mask: bool [B, C, L + C]; by default chunks of `chunk` frames, all of them valid. For a
            kernel of `attention` int32 [B, C], see `masks.ends`.
        """
        heads.check_heads(self.num_heads, self.num_heads)
        if mask is None:
            mask = default_mask(state, x, self.chunk)
        query, key, value = self._project(self.attention_norm(x))
        if mask.ndim == 2:
            y = self._attend_by_kernel(query, key, value, mask)
        else:
            query = query * jnp.float32(self.head_dim**-0.5)
            query, key, value = (y.swapaxes(1, 2) for y in (query, key, value))  # heads first
            y = attend_cached(query, (state, key, value), mask, compute=self.compute)
            y, state = y.swapaxes(1, 2), None if state is None else extend(state, key, value)
        x = x + self.out(y.reshape(*x.shape[:-1], -1))
        return x + self.mlp_out(gelu(self.mlp_in(self.mlp_norm(x)))), state

    def _attend_by_kernel(
        self, query: jax.Array, key: jax.Array, value: jax.Array, ends: jax.Array
    ) -> jax.Array:
        """[B, C, H, P] each -> [B, C, H, P]."""
        interpret = self.attention == "splash_interpret"
        return splash.attend(query, key, value, ends, compute=self.compute, interpret=interpret)

    def _project(self, x: jax.Array) -> Iterator[jax.Array]:
        """[B, C, features] -> queries, keys and values, each [B, C, H, P]."""
        if self.fused:
            parts = jnp.split(self.qkv(x), 3, axis=-1)
        else:
            parts = [self.query(x), self.key(x), self.value(x)]
        return (y.reshape(*y.shape[:-1], self.num_heads, self.head_dim) for y in parts)
