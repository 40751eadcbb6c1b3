"""Speech tokenizer v2: log-mel frames to speech tokens at 25 Hz.

CosyVoice 2 (arXiv 2412.10117) section 2.2: two strided convolutions and six FSMN attention blocks
(the encoder up to the quantizer), FSQ, and for training only what `asr_head` holds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.layers.basic import Conv, Dense
from cosyjax.layers.fsmn import FSMNBlock, FSMNBlockConfig
from cosyjax.models.asr_head import ASRHead, ASRHeadConfig
from cosyjax.ops import fsq

FRAMES_PER_TOKEN = 4  # mel frames at 100 Hz


@dataclasses.dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Defaults: the released `speech_tokenizer_v2`, 123 714 568 parameters."""

    num_mels: int = 128  # log-mel bins at 16 kHz, 100 frames a second
    embed_dim: int = 1280  # D
    num_heads: int = 20
    num_layers: int = 6  # blocks before the quantizer
    mlp_dim: int = 5120
    fsmn_width: int = 31  # tokens the FSMN memory sees, odd
    rope_theta: float = 10_000.0  # base of the rotary wavelengths
    num_code_dims: int = 8  # Q
    num_levels: int = 3  # 2K + 1 values per dimension, odd
    code_scale: float = fsq.OFFICIAL_SCALE  # of tanh before rounding; the paper has 1
    asr: ASRHeadConfig | None = None  # second encoder and text decoder, for training
    compute: str = "float32"  # operand type of products, see ops.product

    def __post_init__(self) -> None:
        fsq.check_levels(self.num_code_dims, self.num_levels)
        if self.num_layers < 0 or self.num_mels < 1:
            raise InputError(
                f"num_layers={self.num_layers}, num_mels={self.num_mels}: at least 0 and 1"
            )
        assert self.block  # validates the sizes of a block

    @property
    def block(self) -> FSMNBlockConfig:
        """Sizes of an encoder block."""
        sizes = (self.embed_dim, self.num_heads, self.mlp_dim, self.fsmn_width)
        return FSMNBlockConfig(*sizes, rope_theta=self.rope_theta, compute=self.compute)

    @property
    def codebook_size(self) -> int:
        """Number of different tokens."""
        return self.num_levels**self.num_code_dims


class TokenizerOutput(struct.PyTreeNode):
    """What training sees.

    Attributes:
      codes: [B, T, Q] in -K..K with straight-through gradients.
      tokens: [B, T] int32.
      num_tokens: [B] int32 valid tokens.
      asr_logits: [B, S + 1, V], or None where no text was given.
    """

    codes: jax.Array
    tokens: jax.Array
    num_tokens: jax.Array
    asr_logits: jax.Array | None


def num_tokens(num_frames: Any) -> Any:
    """Tokens of `num_frames` mel frames (int or int array): halved twice, rounding up."""
    for _ in range(2):
        num_frames = (num_frames - 1) // 2 + 1
    return num_frames


class SpeechTokenizer(nn.Module):
    """Encoder, quantizer and, where `config.asr` asks for it, the text decoder behind them."""

    config: SpeechTokenizerConfig

    def setup(self) -> None:
        c = self.config
        conv = lambda: Conv(
            c.embed_dim, 3, 2, padding=(1, 1), axes=(None, None, "embed"), compute=c.compute
        )
        self.conv1, self.conv2 = conv(), conv()
        self.layers = [FSMNBlock(c.block) for _ in range(c.num_layers)]
        self.proj_down = Dense(c.num_code_dims, ("embed", None), compute=c.compute)
        if c.asr is not None:
            self.asr = ASRHead(c.asr)

    def encode(self, mel: jax.Array, lengths: jax.Array) -> jax.Array:
        """Encodes up to the quantizer.

        Args:
          mel: [B, F, M] log-mel at 100 Hz.
          lengths: [B] valid frames.

        Returns:
          hidden: [B, T, D] at 25 Hz, T = num_tokens(F); entries beyond num_tokens(lengths) mean
          nothing.
        """
        shapes.check(mel, "B F M", "mel", M=self.config.num_mels)
        x = mel.astype(jnp.float32)
        for conv in (self.conv1, self.conv2):
            x = jnp.where(_valid(x, lengths)[..., None], x, 0.0)
            x = jax.nn.gelu(conv(x), approximate=False)
            lengths = (lengths - 1) // 2 + 1
        mask = _valid(x, lengths)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def project(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, T, D] -> [B, T, Q], what the quantizer bounds and rounds."""
        return self.proj_down(hidden)

    def quantize(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, T, D] -> codes [B, T, Q] in -K..K; gradients pass the rounding unchanged."""
        c = self.config
        return fsq.round_ste(fsq.bound(self.project(hidden), c.num_levels, c.code_scale))

    def tokens(self, mel: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mel [B, F, M], lengths [B] -> tokens [B, T] int32 and the number of valid ones [B]."""
        codes = self.quantize(self.encode(mel, lengths))
        return fsq.codes_to_tokens(codes, self.config.num_levels), num_tokens(lengths)

    def __call__(
        self, mel: jax.Array, lengths: jax.Array, text_tokens: jax.Array | None = None
    ) -> TokenizerOutput:
        """Runs everything that training needs.

        Args:
          mel: [B, F, M] log-mel at 100 Hz.
          lengths: [B] valid frames.
          text_tokens: [B, S] int32, to be predicted by the text decoder.

        Raises:
          InputError: text without `config.asr`.
        """
        codes = self.quantize(self.encode(mel, lengths))
        tokens = fsq.codes_to_tokens(jax.lax.stop_gradient(codes), self.config.num_levels)
        count, logits = num_tokens(lengths), None
        if text_tokens is not None:
            if self.config.asr is None:
                raise InputError("text_tokens need a text decoder: set config.asr")
            logits = self.asr(codes, _valid(codes, count), text_tokens)
        return TokenizerOutput(codes, tokens, count, logits)


def _valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """[B, T] True = within the row's length."""
    return jnp.arange(x.shape[1]) < lengths[:, None]


def init_params(config: SpeechTokenizerConfig, key: jax.Array) -> Any:
    """Draws parameters (unboxed), of the text decoder too where the config has one."""
    mel = jnp.zeros((1, FRAMES_PER_TOKEN, config.num_mels), jnp.float32)
    text = None if config.asr is None else jnp.zeros((1, 1), jnp.int32)
    args = (mel, jnp.full((1,), FRAMES_PER_TOKEN, jnp.int32), text)
    # Compiled, the forward pass that nobody reads falls away.
    variables = jax.jit(SpeechTokenizer(config).init)(key, *args)
    return nn.meta.unbox(variables["params"])
