"""The flow's encoder: embedded speech tokens at 25 Hz to features at 50 Hz.

CosyVoice 2 (arXiv 2412.10117) section 2.4: a look-ahead convolution, attention blocks, two frames
per token, further blocks. Attention is masked in chunks; only the look-ahead sees the future.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers.basic import LayerNorm
from cosyjax.layers.chunk_cache import ChunkCache
from cosyjax.layers.conformer import ConformerBlock, InputEmbed
from cosyjax.layers.conv import LookaheadConv, UpsampleConv
from cosyjax.layers.remat import remat
from cosyjax.layers.stacking import run_scanned
from cosyjax.ops import masks
from cosyjax.shapes import FRAMES_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class UpsampleEncoderConfig:
    """Sizes of the encoder."""

    embed_dim: int = 512  # width D of every layer
    num_heads: int = 8  # attention heads; they divide D
    mlp_dim: int = 2048  # hidden width of the feed-forward
    num_layers: int = 6  # blocks at the token rate
    num_up_layers: int = 4  # blocks at the frame rate
    lookahead: int = 3  # tokens that a token sees after itself
    lookahead_width: int = 3  # width of the causal convolution behind the look-ahead
    upsample_width: int = 5  # width of the convolution after the repetition, in frames

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim={self.embed_dim} does not divide into num_heads={self.num_heads}"
            )
        if self.embed_dim % 2 or min(self.mlp_dim, self.lookahead_width, self.upsample_width) < 1:
            raise InputError(f"embed_dim must be even and all widths positive, got {self}")
        if min(self.num_layers, self.num_up_layers, self.lookahead) < 0:
            raise InputError(f"num_layers, num_up_layers and lookahead are counts, got {self}")


class Masks(NamedTuple):
    """Which tokens a token, and which frames a frame may look at."""

    tokens: jax.Array  # bool [B, C, L + C]
    frames: jax.Array  # bool [B, 2C, 2L + 2C]


class EncoderState(struct.PyTreeNode):
    """The encoder between two calls."""

    position: jax.Array  # int32 [B], tokens spoken so far
    lookahead: jax.Array  # [B, width - 1, D]
    layers: tuple[ChunkCache, ...]
    upsample: jax.Array  # [B, width - 1, D]
    up_layers: tuple[ChunkCache, ...]


class UpsampleEncoder(nn.Module):
    """[B, T, D] embedded tokens -> [B, 2T, D]."""

    config: UpsampleEncoderConfig
    compute: str = "float32"
    remat: str = "none"  # of the blocks, see layers.remat
    scan_layers: bool = False  # blocks of whole utterances run by a scan, as in Estimator

    def setup(self) -> None:
        c, compute = self.config, self.compute
        sizes = (c.embed_dim, c.num_heads, c.mlp_dim)
        block = remat(ConformerBlock, self.remat, ["step"])
        blocks = lambda n: [block(*sizes, compute=compute) for _ in range(n)]
        self.embed = InputEmbed(c.embed_dim, compute)
        self.lookahead = LookaheadConv(c.embed_dim, c.lookahead, c.lookahead_width, compute)
        self.layers = blocks(c.num_layers)
        self.upsample = UpsampleConv(c.embed_dim, FRAMES_PER_TOKEN, c.upsample_width, compute)
        self.up_embed = InputEmbed(c.embed_dim, compute)
        self.up_layers = blocks(c.num_up_layers)
        self.out_norm = LayerNorm(1e-5)

    def __call__(
        self,
        x: jax.Array,
        lengths: jax.Array,
        attention: Masks,
        *,
        sanitize: bool = True,
    ) -> jax.Array:
        """Encodes whole utterances.

        Args:
          x: [B, T, D] embedded tokens.
          lengths: int [B], valid tokens; those only looked at (not spoken) count as valid here.
          attention: masks of the whole utterances.
          sanitize: the look-ahead sees zeros beyond the end of a row, whatever the padding holds.
            Differs: the official training code lets the last tokens of a padded row see the
            embedding of the padding, so that a row's features depend on its batch; False
            reproduces that.

        Returns:
          [B, 2T, D]; frames of the padding hold no meaning.
        """
        valid = masks.valid(lengths, x.shape[1]) if sanitize else None
        h = self._embed(x, valid)
        beyond = jnp.zeros((x.shape[0], self.config.lookahead, x.shape[2]), h.dtype)
        return self._run(h, beyond, None, attention)[0]

    def init_state(self, batch: int, max_tokens: int) -> EncoderState:
        """Returns the state before the start, with caches of `max_tokens` tokens."""
        max_frames = FRAMES_PER_TOKEN * max_tokens
        return EncoderState(
            jnp.zeros((batch,), jnp.int32),
            self.lookahead.init_state(batch),
            tuple(layer.init_state(batch, max_tokens) for layer in self.layers),
            self.upsample.init_state(batch),
            tuple(layer.init_state(batch, max_frames) for layer in self.up_layers),
        )

    def step(
        self,
        x: jax.Array,
        state: EncoderState,
        lookahead: jax.Array,
        num_valid: jax.Array,
        attention: Masks,
    ) -> tuple[jax.Array, EncoderState]:
        """Advances by whole mask chunks.

        Args:
          x: [B, C, D] embedded tokens to speak.
          state: what came before.
          lookahead: [B, A, D] embedded tokens after them.
          num_valid: int [B], valid tokens among the C + A.
          attention: masks of this step.

        Returns:
          [B, 2C, D], and the state.
        """
        num_new = x.shape[1]
        both = jnp.concatenate([x, lookahead], axis=1)
        h = self._embed(both, masks.valid(num_valid, both.shape[1]))
        h, after = self._run(h[:, :num_new], h[:, num_new:], state, attention)
        assert after is not None
        return h, after

    def _embed(self, x: jax.Array, valid: jax.Array | None) -> jax.Array:
        if valid is None:
            return self.embed(x)
        x = jnp.where(valid[..., None], x, 0.0)
        return jnp.where(valid[..., None], self.embed(x), 0.0)

    def _run(
        self, h: jax.Array, beyond: jax.Array, state: EncoderState | None, attention: Masks
    ) -> tuple[jax.Array, EncoderState | None]:
        old = lambda name: None if state is None else getattr(state, name)
        num_new = h.shape[1]
        h, lookahead = self.lookahead.step(h, old("lookahead"), beyond)
        h, layers = self._stack("layers", h, old("layers"), attention.tokens)
        h, upsample = self.upsample.step(h, old("upsample"))
        h = self.up_embed(h)
        h, up_layers = self._stack("up_layers", h, old("up_layers"), attention.frames)
        h = self.out_norm(h)
        if state is None:
            return h, None
        return h, EncoderState(state.position + num_new, lookahead, layers, upsample, up_layers)

    def _stack(
        self, name: str, x: jax.Array, states: tuple[ChunkCache, ...] | None, mask: jax.Array
    ) -> tuple[jax.Array, tuple[ChunkCache, ...]]:
        layers: list[ConformerBlock] = getattr(self, name)
        advance = lambda block, x: block(sharding.keep_rows(x), None, mask)[0]
        if self.scan_layers and states is None and layers:
            return run_scanned(self, name, layers, advance, x), ()
        after: list[Any] = []
        for i, layer in enumerate(layers):
            x = sharding.keep_rows(x)
            x, state = layer.step(x, None if states is None else states[i], mask)
            after.append(state)
        return x, tuple(after)
