"""Convolutions over time that stream: causal, looking ahead, and causal after repeating frames.

Each is written once, as `step`; a call on a whole utterance is a step from the zero state, which
`step` takes as None. Parameters are a kernel [width, in, out] and a bias.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import Conv, boxed
from cosyjax.ops import product

LEAKY_SLOPE = 0.01


class CausalConv(nn.Module):
    """[B, T, in_features] -> [B, T, features]; frame t sees the frames t - width + 1 .. t."""

    in_features: int
    features: int
    width: int
    compute: str = "float32"

    def setup(self) -> None:
        shape = (self.width, self.in_features, self.features)
        init = boxed(nn.initializers.lecun_normal(), (None, "embed", "mlp"))
        self.kernel = self.param("kernel", init, shape, jnp.float32)
        zeros = boxed(nn.initializers.zeros, ("mlp",))
        self.bias = self.param("bias", zeros, (self.features,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.step(x, None)[0]

    def init_state(self, batch: int) -> jax.Array:
        """Returns the frames before the start: zeros [B, width - 1, in_features]."""
        return jnp.zeros((batch, self.width - 1, self.in_features), jnp.float32)

    def step(self, x: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Advances by `x` [B, C, in_features]; returns (y [B, C, features], state)."""
        if state is None:
            state = self.init_state(x.shape[0])
        x = jnp.concatenate([state, x], axis=1)
        y = product.conv1d(x, self.kernel, compute=self.compute) + self.bias
        return y, x[:, x.shape[1] - (self.width - 1) :]


class LookaheadConv(nn.Module):
    """Adds what the next `lookahead` frames tell: [B, T, features] -> [B, T, features].

    A convolution over the present and the next frames, a leaky rectifier, a causal convolution
    over its result, and a residual sum. Beyond the end of the utterance the frames are zero.
    CosyVoice 2 (arXiv 2412.10117) section 2.4.
    """

    features: int
    lookahead: int = 3
    width: int = 3
    compute: str = "float32"

    def setup(self) -> None:
        axes = (None, "embed", "mlp")
        self.ahead = Conv(self.features, self.lookahead + 1, axes=axes, compute=self.compute)
        self.behind = CausalConv(self.features, self.features, self.width, self.compute)

    def __call__(self, x: jax.Array) -> jax.Array:
        beyond = jnp.zeros((x.shape[0], self.lookahead, self.features), x.dtype)
        return self.step(x, None, beyond)[0]

    def init_state(self, batch: int) -> jax.Array:
        """Returns what the causal convolution remembers: [B, width - 1, features]."""
        return self.behind.init_state(batch)

    def step(
        self, x: jax.Array, state: jax.Array | None, lookahead: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Advances by `x` [B, C, D], seeing the frames after it, `lookahead` [B, A, D]."""
        y = self.ahead(jnp.concatenate([x, lookahead], axis=1))
        y, state = self.behind.step(jax.nn.leaky_relu(y, LEAKY_SLOPE), state)
        return x + y, state


class UpsampleConv(nn.Module):
    """Repeats every frame, then convolves causally: [B, T, D] -> [B, T * factor, D]."""

    features: int
    factor: int = 2
    width: int = 5
    compute: str = "float32"

    def setup(self) -> None:
        self.conv = CausalConv(self.features, self.features, self.width, self.compute)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.step(x, None)[0]

    def init_state(self, batch: int) -> jax.Array:
        """Returns the repeated frames before the start: zeros [B, width - 1, D]."""
        return self.conv.init_state(batch)

    def step(self, x: jax.Array, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Advances by `x` [B, C, D]; returns ([B, C * factor, D], state)."""
        return self.conv.step(jnp.repeat(x, self.factor, axis=1), state)
