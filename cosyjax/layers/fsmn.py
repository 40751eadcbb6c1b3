"""Self-attention with an FSMN memory: the block of the speech tokenizer's encoder.

FSMN (arXiv 1512.08301, in SAN-M form arXiv 2006.01713): beside the attention, the values pass a
depthwise convolution over time, and the sum of both leaves the layer.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers.basic import Dense, LayerNorm, boxed
from cosyjax.ops import attend, rope

# Both values are those of the released tokenizer, which differ within one block.
ATTENTION_NORM_EPSILON = 1e-6
MLP_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class FSMNBlockConfig:
    """Sizes of one block."""

    embed_dim: int = 1280  # D
    num_heads: int = 20
    mlp_dim: int = 5120
    fsmn_width: int = 31  # frames the memory sees, odd: as many before as after
    rope_theta: float = 10_000.0  # base of the rotary wavelengths
    compute: str = "float32"  # operand type of products, see ops.product

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads or self.embed_dim // self.num_heads % 2:
            raise InputError(
                f"embed_dim={self.embed_dim} must be an even multiple of num_heads={self.num_heads}"
            )
        if self.fsmn_width % 2 == 0:
            raise InputError(f"fsmn_width={self.fsmn_width} must be odd; use {self.fsmn_width + 1}")


class FSMNAttention(nn.Module):
    """Rotary self-attention over all valid frames, plus the FSMN memory of its values."""

    config: FSMNBlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x: [B, T, D], mask: [B, T] True = valid -> [B, T, D]."""
        c = self.config
        dense = lambda name, bias: Dense(
            c.embed_dim, ("embed", "heads"), bias, c.compute, name=name
        )
        heads = lambda y: y.reshape(*y.shape[:2], c.num_heads, -1)
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        query = rope.rotate(heads(dense("query", True)(x)), positions, c.rope_theta)
        key = rope.rotate(heads(dense("key", False)(x)), positions, c.rope_theta)
        value = dense("value", True)(x)
        y = attend.attend(query, key, heads(value), mask[:, None, :], compute=c.compute)
        out = Dense(c.embed_dim, ("heads", "embed"), compute=c.compute, name="out")
        memory = FSMNMemory(c.fsmn_width, name="memory")(value, mask)
        return out(y.reshape(x.shape)) + memory


class FSMNMemory(nn.Module):
    """Depthwise convolution over time with its own residual; padding neither enters nor leaves."""

    width: int

    @nn.compact
    def __call__(self, value: jax.Array, mask: jax.Array) -> jax.Array:
        """value: [B, T, D], mask: [B, T] -> [B, T, D] float32."""
        init = boxed(nn.initializers.lecun_normal(), (None, None, "heads"))
        kernel = self.param("kernel", init, (self.width, 1, value.shape[-1]), jnp.float32)[:, 0]
        valid = mask[..., None]
        value = jnp.where(valid, value, 0.0)
        return jnp.where(valid, depthwise(value, kernel) + value, 0.0)


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Centred depthwise convolution in float32.

    A sum of shifted products, which compilers fuse into one pass; a grouped convolution is far
    slower on CPU.

    Args:
      x: [B, T, D].
      kernel: [width, D], width odd.

    Returns:
      [B, T, D].
    """
    half, num_frames = kernel.shape[0] // 2, x.shape[1]
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    taps = (padded[:, k : k + num_frames] * kernel[k] for k in range(kernel.shape[0]))
    return sum(taps, start=jnp.zeros_like(x))


class FSMNBlock(nn.Module):
    """Pre-norm attention, then pre-norm MLP with exact GELU, each with a residual."""

    config: FSMNBlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """x: [B, T, D], mask: [B, T] True = valid -> [B, T, D] float32."""
        c = self.config
        x = sharding.keep_rows(x)
        y = LayerNorm(ATTENTION_NORM_EPSILON, name="attention_norm")(x)
        x = sharding.keep_rows(x + FSMNAttention(c, name="attention")(y, mask))
        y = LayerNorm(MLP_NORM_EPSILON, name="mlp_norm")(x)
        y = Dense(c.mlp_dim, ("embed", "mlp"), compute=c.compute, name="mlp_in")(y)
        y = jax.nn.gelu(y, approximate=False)
        y = Dense(c.embed_dim, ("mlp", "embed"), compute=c.compute, name="mlp_out")(y)
        return sharding.keep_rows(x + y)
