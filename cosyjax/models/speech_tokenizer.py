"""Speech tokenizer v2: log-mel frames to speech tokens at 25 Hz.

CosyVoice 2 (arXiv 2412.10117) section 2.2: two strided convolutions and six FSMN attention blocks
(the encoder up to the quantizer), FSQ, and for training only what `asr_head` holds. The paper's
baselines, VQ and no quantizer at all, are there by `config.quantizer`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax import shapes, sharding
from cosyjax.errors import InputError
from cosyjax.layers.basic import Conv, Dense, LayerNorm, boxed
from cosyjax.layers.fsmn import FSMNBlock, FSMNBlockConfig
from cosyjax.models.asr_head import ASRHead, ASRHeadConfig, ASRLogits
from cosyjax.ops import fsq, vq

QUANTIZERS = ("fsq", "vq", "none")
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
    quantizer: str = "fsq"  # "vq", nearest of learnt vectors, and "none" are baselines
    num_vectors: int = 4096  # in the table of "vq"; each is as wide as the encoder
    normalise: bool = False  # layer norm before the quantizer, so that no tanh starts saturated
    asr: ASRHeadConfig | None = None  # second encoder and text decoder, for training
    compute: str = "float32"  # operand type of products, see ops.product

    def __post_init__(self) -> None:
        fsq.check_levels(self.num_code_dims, self.num_levels)
        if self.num_layers < 0 or self.num_mels < 1:
            raise InputError(
                f"num_layers={self.num_layers}, num_mels={self.num_mels}: at least 0 and 1"
            )
        if self.quantizer not in QUANTIZERS:
            raise InputError(f"quantizer={self.quantizer!r}; allowed: {', '.join(QUANTIZERS)}")
        if self.num_vectors < 1:
            raise InputError(f"num_vectors={self.num_vectors} must be at least 1")
        assert self.block  # validates the sizes of a block

    @property
    def block(self) -> FSMNBlockConfig:
        """Sizes of an encoder block."""
        sizes = (self.embed_dim, self.num_heads, self.mlp_dim, self.fsmn_width)
        return FSMNBlockConfig(*sizes, rope_theta=self.rope_theta, compute=self.compute)

    @property
    def codebook_size(self) -> int:
        """Number of different tokens; 0 without a quantizer."""
        sizes = {"fsq": self.num_levels**self.num_code_dims, "vq": self.num_vectors, "none": 0}
        return sizes[self.quantizer]

    @property
    def code_dim(self) -> int:
        """Q: how wide a code is."""
        return self.num_code_dims if self.quantizer == "fsq" else self.embed_dim


class Quantized(NamedTuple):
    """Features and what stands for them; entries beyond a row's end mean nothing."""

    features: jax.Array  # [B, T, Q] float32 before the choice; with FSQ bounded to (-K, K)
    chosen: jax.Array  # [B, T, Q] its gradient goes to the table of "vq", with "fsq" to features
    codes: jax.Array  # [B, T, Q] equal to `chosen`, its gradient goes to the features
    tokens: jax.Array  # [B, T] int32; zeros without a quantizer


class TokenizerOutput(struct.PyTreeNode):
    """What training sees.

    Attributes:
      codes: [B, T, Q] with straight-through gradients; with FSQ in -K..K.
      tokens: [B, T] int32.
      num_tokens: [B] int32 valid tokens.
      asr: see `ASRLogits`, or None where no text was given.
      quantized: the parts that the losses of a quantizer compare.
    """

    codes: jax.Array
    tokens: jax.Array
    num_tokens: jax.Array
    asr: ASRLogits | None
    quantized: Quantized


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
        if c.normalise:
            self.code_norm = LayerNorm()
        if c.quantizer == "fsq":
            self.proj_down = Dense(c.num_code_dims, ("embed", None), compute=c.compute)
        elif c.quantizer == "vq":
            init = boxed(nn.initializers.normal(1.0), (None, "embed"))
            self.table = self.param("table", init, (c.num_vectors, c.embed_dim), jnp.float32)
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
            x = sharding.keep_rows(jax.nn.gelu(conv(x), approximate=False))
            lengths = (lengths - 1) // 2 + 1
        mask = _valid(x, lengths)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def project(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, T, D] -> [B, T, Q], what FSQ bounds and rounds, or VQ looks up."""
        x = self.code_norm(hidden) if self.config.normalise else hidden
        return self.proj_down(x) if self.config.quantizer == "fsq" else x

    def quantize(self, hidden: jax.Array) -> jax.Array:
        """hidden [B, T, D] -> codes [B, T, Q], with FSQ in -K..K; gradients pass unchanged."""
        return self.choose(hidden).codes

    def choose(self, hidden: jax.Array, noise: jax.Array | None = None) -> Quantized:
        """Quantizes.

        Args:
          hidden: [B, T, D] of the encoder.
          noise: [B, T, Q] that FSQ adds before it rounds; 1 is the distance of two levels.
        """
        c, x = self.config, self.project(hidden)
        if c.quantizer == "vq":
            tokens = vq.nearest(jax.lax.stop_gradient(x), self.table)
            chosen = jnp.take(self.table, tokens, axis=0)
            return Quantized(x, chosen, vq.straight_through(x, chosen), tokens)
        if c.quantizer == "none":
            return Quantized(x, x, x, jnp.zeros(x.shape[:2], jnp.int32))
        x = fsq.bound(x, c.num_levels, c.code_scale)
        top = c.num_levels // 2
        codes = fsq.round_ste(x if noise is None else jnp.clip(x + noise, -top, top))
        tokens = fsq.codes_to_tokens(jax.lax.stop_gradient(codes), c.num_levels)
        return Quantized(x, codes, codes, tokens)

    def tokens(self, mel: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """mel [B, F, M], lengths [B] -> tokens [B, T] int32 and the number of valid ones [B]."""
        if self.config.quantizer == "none":
            raise InputError('quantizer="none" makes no tokens; train with "fsq" or "vq"')
        return self.choose(self.encode(mel, lengths)).tokens, num_tokens(lengths)

    def __call__(
        self,
        mel: jax.Array,
        lengths: jax.Array,
        text_tokens: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> TokenizerOutput:
        """Runs everything that training needs.

        Args:
          mel: [B, F, M] log-mel at 100 Hz.
          lengths: [B] valid frames.
          text_tokens: [B, S] int32, to be predicted by the text decoder.
          noise: see `choose`.

        Raises:
          InputError: text without `config.asr`.
        """
        quantized = self.choose(self.encode(mel, lengths), noise)
        codes, count, logits = quantized.codes, num_tokens(lengths), None
        if text_tokens is not None:
            if self.config.asr is None:
                raise InputError("text_tokens need a text decoder: set config.asr")
            logits = self.asr(codes, _valid(codes, count), text_tokens)
        return TokenizerOutput(codes, quantized.tokens, count, logits, quantized)


def _valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """[B, T] True = within the row's length."""
    return jnp.arange(x.shape[1]) < lengths[:, None]


def init_boxed(config: SpeechTokenizerConfig, key: jax.Array) -> Any:
    """Draws parameters, of the text decoder too where the config has one, with their axis names."""
    mel = jnp.zeros((1, FRAMES_PER_TOKEN, config.num_mels), jnp.float32)
    text = None if config.asr is None else jnp.zeros((1, 1), jnp.int32)
    args = (mel, jnp.full((1,), FRAMES_PER_TOKEN, jnp.int32), text)
    # Compiled, the forward pass that nobody reads falls away.
    return jax.jit(SpeechTokenizer(config).init)(key, *args)["params"]


def init_params(config: SpeechTokenizerConfig, key: jax.Array) -> Any:
    """As `init_boxed`, without the names."""
    return nn.meta.unbox(init_boxed(config, key))
