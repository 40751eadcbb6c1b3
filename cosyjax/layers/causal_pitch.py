"""The pitch of the causal vocoder: F0 from the mel, and the weights of its harmonics.

A stream sums F0 up to a phase, so F0 may not depend on how the mel was cut into calls: products are
those of `ops.exact`, and all between two of them is exact or a single rounding.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import boxed
from cosyjax.layers.causal_vocoder import BEHIND_FRAMES, join, silence
from cosyjax.layers.vocoder import AXES, keep
from cosyjax.layers.weight_norm import UNIFORM_START, weight_norm_kernel
from cosyjax.ops import exact

SLOPE = 0.125  # of the leaky rectifier; products with a power of two are exact


class ExactConv(nn.Module):
    """Weight-normed convolution whose bits do not depend on how its input was cut into calls.

    [B, width - 1 + T, D] -> [B, T, features], after `fold_kernels`: before, each program computes
    the kernel for itself.
    """

    features: int
    width: int
    kernels: str = "normed"

    @nn.compact
    def __call__(self, joined: jax.Array) -> jax.Array:
        shape = (self.width, joined.shape[-1], self.features)
        bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), shape[2:], jnp.float32)
        if self.kernels == "normed":
            kernel = weight_norm_kernel(self, shape, AXES)
        else:
            kernel = self.param("kernel", boxed(UNIFORM_START, AXES), shape, jnp.float32)
        num_out = joined.shape[1] - (self.width - 1)
        taps = [joined[:, k : k + num_out] for k in range(self.width)]
        flat = kernel.reshape(-1, self.features)
        return exact.dense(jnp.concatenate(taps, axis=-1), flat) + bias


class ExactDense(nn.Module):
    """`layers.basic.Dense` by `ops.exact`."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = boxed(nn.initializers.lecun_normal(), (None, None))
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        zeros = boxed(nn.initializers.zeros, (None,))
        return exact.dense(x, kernel) + self.param("bias", zeros, (self.features,), jnp.float32)


class CausalPitch(nn.Module):
    """Mel [B, F, M] with its surroundings -> F0 [B, F] in Hz, not negative; always float32.

    The first convolution looks ahead, the others do not.
    """

    channels: int
    num_layers: int
    lookahead: int
    kernels: str = "normed"

    def init_state(self, batch: int) -> tuple[jax.Array, ...]:
        """Silence before each convolution but the first, which the caller gives its context."""
        return tuple(silence(batch, 2, self.channels) for _ in range(self.num_layers - 1))

    @nn.compact
    def step(
        self,
        window: jax.Array,
        state: tuple[jax.Array, ...] | None,
        mask: jax.Array | None = None,
        advance: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Advances by F frames.

        Args:
          window: [B, BEHIND_FRAMES + F + lookahead, M].
          state: from the step before.
          mask: [B, F, 1], False before a row's start.
          advance: [B] frames by which each row goes on; None means F.

        Returns:
          [B, F] Hz, zero where `mask` is False, and the state.
        """
        before = iter((None,) * (self.num_layers - 1) if state is None else state)
        after: list[jax.Array] = []
        x = window
        for i in range(self.num_layers):
            width = 3 if i else BEHIND_FRAMES + 1 + self.lookahead
            if i:
                x, own = join(keep(x, mask), next(before), width - 1, advance)
                after.append(own)
            x = ExactConv(self.channels, width, self.kernels, name=f"conv_{i}")(x)
            x = nn.leaky_relu(x, SLOPE)
        hz = ExactDense(1, name="output")(x)
        return jnp.abs(keep(hz, mask))[..., 0], tuple(after)


class HarmonicMix(nn.Module):
    """Weight of each harmonic in the source, [H], and a bias."""

    num_harmonics: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        init = boxed(nn.initializers.lecun_normal(), (None, None))
        kernel = self.param("kernel", init, (self.num_harmonics + 1, 1), jnp.float32)
        bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), (1,), jnp.float32)
        return kernel[:, 0], bias
