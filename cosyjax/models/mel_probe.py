"""What is left of the sound in the output of a quantizer: a small model that predicts it back.

It trains beside a speech tokenizer to measure it and is no part of it. The flow and the vocoder
hear more than this, a speaker among it; as a measure of quantizers it is the same for all of them.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.errors import InputError
from cosyjax.layers.basic import Conv, Dense, LayerNorm


@dataclasses.dataclass(frozen=True)
class MelProbeConfig:
    """Sizes."""

    embed_dim: int = 256  # D
    num_layers: int = 3  # convolutions
    width: int = 5  # tokens that each sees, odd
    compute: str = "float32"  # operand type of products, see ops.product

    def __post_init__(self) -> None:
        if self.embed_dim < 1 or self.num_layers < 0 or self.width % 2 != 1:
            raise InputError(
                f"embed_dim={self.embed_dim}, num_layers={self.num_layers}, width={self.width}: "
                "at least 1, at least 0 and odd"
            )


class MelProbe(nn.Module):
    """Codes to the mel frames that they were made of."""

    config: MelProbeConfig
    num_mels: int
    frames_per_token: int

    @nn.compact
    def __call__(self, codes: jax.Array, mask: jax.Array) -> jax.Array:
        """Predicts mel.

        Args:
          codes: [B, T, Q].
          mask: [B, T] True = valid.

        Returns:
          [B, T * frames_per_token, num_mels]; entries of invalid tokens mean nothing.
        """
        c, inside = self.config, mask[..., None]
        x = jnp.where(inside, codes, 0.0)
        x = Dense(c.embed_dim, (None, "embed"), compute=c.compute, name="proj_in")(x)
        side = c.width // 2
        for i in range(c.num_layers):
            y = jnp.where(inside, LayerNorm(name=f"norm_{i}")(x), 0.0)
            conv = Conv(
                c.embed_dim, c.width, padding=(side, side), compute=c.compute, name=f"conv_{i}"
            )
            x = x + jax.nn.gelu(conv(y), approximate=False)
        width = self.frames_per_token * self.num_mels
        frames = Dense(width, ("embed", None), compute=c.compute, name="proj_out")(x)
        return frames.reshape(codes.shape[0], -1, self.num_mels)
