"""Second encoder and text decoder behind the quantizer: what teaches the tokens their meaning.

CosyVoice 2 (arXiv 2412.10117) section 2.2: the quantizer sits inside SenseVoice-Large, whose later
encoder blocks and autoregressive decoder predict the text; both are dropped after training.
Differs: the sizes of that part were never published; the defaults here are a small one.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers.basic import Dense, Embed, LayerNorm
from cosyjax.layers.fsmn import FSMNBlock, FSMNBlockConfig
from cosyjax.ops import attend, rope


@dataclasses.dataclass(frozen=True)
class ASRHeadConfig:
    """Sizes of the training-only part."""

    embed_dim: int = 1280  # D of both halves
    num_heads: int = 20
    mlp_dim: int = 5120
    num_encoder_layers: int = 6  # FSMN blocks behind the quantizer
    num_decoder_layers: int = 6
    vocab_size: int = 151_936  # V, text tokens of the LM's tokenizer
    start_token: int = 151_644  # first input of the decoder
    end_token: int = 151_645  # what the decoder predicts after the last text token
    fsmn_width: int = 31  # frames, odd
    rope_theta: float = 10_000.0
    # Differs: the paper names no other loss than the decoder's. With hours of speech the decoder's
    # attention takes long to find its place; connectionist temporal classification needs none.
    ctc: bool = False  # also predict text from each token of speech, `start_token` being the blank
    compute: str = "float32"  # operand type of products, see ops.product

    def __post_init__(self) -> None:
        if not 0 <= self.start_token < self.vocab_size or not 0 <= self.end_token < self.vocab_size:
            raise InputError(
                f"start_token={self.start_token} and end_token={self.end_token} must lie below "
                f"vocab_size={self.vocab_size}"
            )
        assert self.encoder  # validates the sizes that both halves share

    @property
    def encoder(self) -> FSMNBlockConfig:
        """Sizes of an encoder block."""
        sizes = (self.embed_dim, self.num_heads, self.mlp_dim, self.fsmn_width)
        return FSMNBlockConfig(*sizes, rope_theta=self.rope_theta, compute=self.compute)


class ASRLogits(NamedTuple):
    """What the text is predicted with."""

    text: jax.Array  # [B, S + 1, V]: entry i predicts text token i, the one after the last the end
    frames: jax.Array | None  # [B, T, V] of each token of speech, with `ctc`


class ASRHead(nn.Module):
    """Codes to logits over text tokens, teacher forced."""

    config: ASRHeadConfig

    @nn.compact
    def __call__(self, codes: jax.Array, mask: jax.Array, text_tokens: jax.Array) -> ASRLogits:
        """Predicts the text.

        Args:
          codes: [B, T, Q] of the quantizer, gradients pass.
          mask: [B, T] True = valid.
          text_tokens: [B, S] int32; what lies beyond a row's length does not matter.

        Returns:
          Float32 logits.
        """
        c = self.config
        codes = jnp.where(mask[..., None], codes, 0.0)
        x = Dense(c.embed_dim, (None, "embed"), compute=c.compute, name="proj_up")(codes)
        for i in range(c.num_encoder_layers):
            x = FSMNBlock(c.encoder, name=f"encoder_{i}")(x, mask)
        memory = sharding.keep_rows(LayerNorm(name="encoder_norm")(x))
        start = jnp.full((text_tokens.shape[0], 1), c.start_token, jnp.int32)
        text = jnp.concatenate([start, text_tokens.astype(jnp.int32)], axis=1)
        # A padding value outside the table, such as -1, must not pick a NaN row.
        y = Embed(c.vocab_size, c.embed_dim, name="embed")(jnp.clip(text, 0, c.vocab_size - 1))
        for i in range(c.num_decoder_layers):
            y = DecoderBlock(c, name=f"decoder_{i}")(y, memory, mask)
        y = LayerNorm(name="decoder_norm")(y)
        head = Dense(c.vocab_size, ("embed", "vocab"), False, c.compute, name="head")
        frames = None
        if c.ctc:
            frames = Dense(c.vocab_size, ("embed", "vocab"), True, c.compute, name="ctc")(memory)
        return ASRLogits(head(y), frames)


class DecoderBlock(nn.Module):
    """Causal self-attention, attention over the speech, MLP; pre-norm, each with a residual."""

    config: ASRHeadConfig

    @nn.compact
    def __call__(self, y: jax.Array, memory: jax.Array, mask: jax.Array) -> jax.Array:
        """y: [B, S, D], memory: [B, T, D], mask: [B, T] -> [B, S, D]."""
        c, length = self.config, y.shape[1]
        causal = jnp.tril(jnp.ones((1, length, length), bool))
        y = sharding.keep_rows(y)
        z = LayerNorm(name="self_norm")(y)
        y = y + DecoderAttention(c, rotary=True, name="self_attention")(z, z, causal)
        y = sharding.keep_rows(y)
        z = LayerNorm(name="cross_norm")(y)
        cross = DecoderAttention(c, rotary=False, name="cross_attention")
        y = sharding.keep_rows(y + cross(z, memory, mask[:, None, :]))
        z = LayerNorm(name="mlp_norm")(y)
        z = Dense(c.mlp_dim, ("embed", "mlp"), compute=c.compute, name="mlp_in")(z)
        z = jax.nn.gelu(z, approximate=False)
        z = Dense(c.embed_dim, ("mlp", "embed"), compute=c.compute, name="mlp_out")(z)
        return sharding.keep_rows(y + z)


class DecoderAttention(nn.Module):
    """Multi-head attention; `rotary` turns queries and keys by their positions."""

    config: ASRHeadConfig
    rotary: bool

    @nn.compact
    def __call__(self, y: jax.Array, memory: jax.Array, mask: jax.Array) -> jax.Array:
        """y: [B, S, D], memory: [B, T, D], mask: [B, S or 1, T] -> [B, S, D]."""
        c = self.config

        def project(name: str, x: jax.Array, bias: bool = True) -> jax.Array:
            x = Dense(c.embed_dim, ("embed", "heads"), bias, c.compute, name=name)(x)
            return x.reshape(*x.shape[:2], c.num_heads, -1)

        def turn(x: jax.Array) -> jax.Array:
            positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            return rope.rotate(x, positions, c.rope_theta) if self.rotary else x

        query, key = turn(project("query", y)), turn(project("key", memory, bias=False))
        mixed = attend.attend(query, key, project("value", memory), mask, compute=c.compute)
        out = Dense(c.embed_dim, ("heads", "embed"), compute=c.compute, name="out")
        return out(mixed.reshape(y.shape))
