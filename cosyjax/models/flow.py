"""Conditional flow matching: speech tokens, a speaker and a prompt's mel to mel frames.

CosyVoice 2 (arXiv 2412.10117) section 2.4. Noise x0 is carried to data x1 along straight lines; the
estimator gives the velocity, ten Euler steps on a cosine grid follow it, with classifier-free
guidance. `mask_chunk` (what attention may see: it changes the sound) and the tokens of one `step`
(it changes the delay alone) are two numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.errors import InputError, nearest
from cosyjax.layers.basic import Dense, Embed
from cosyjax.layers.remat import check_policy
from cosyjax.models.estimator import Conditions, Estimator, EstimatorConfig, EstimatorState
from cosyjax.models.flow_solver import carry, sanitize_inputs
from cosyjax.models.upsample_encoder import (
    EncoderState,
    Masks,
    UpsampleEncoder,
    UpsampleEncoderConfig,
)
from cosyjax.ops import masks, ode, splash
from cosyjax.ops.product import COMPUTE_TYPES
from cosyjax.shapes import CODEBOOK_SIZE, FRAMES_PER_TOKEN, SPEAKER_DIM

OPTIONS = {
    "time_warp": ("none", "cosine"),
    "masks": ("official", "paper"),
    "prompt": ("official", "paper"),
    "loss": ("mse", "l1"),
    "padding": ("zeros", "official"),
    "attention": ("whole", *splash.KERNELS),
}


@dataclasses.dataclass(frozen=True)
class FlowTrainingConfig:
    """How training draws and what it minimises.

    Differs: where the paper and the official code disagree, the official code is the default.
    """

    time_warp: str = "none"  # of t ~ U[0, 1]; "cosine": 1 - cos(pi t / 2), official until 2026-01
    masks: str = "official"  # full or chunk, one draw a batch; "paper": four kinds, a draw per row
    prompt: str = "official"  # half the rows up to 30 % given; "paper": all rows, 70-100 % masked
    loss: str = "mse"  # "l1" is the paper's, and the official file's unused setting
    padding: str = "zeros"  # after a row's end; "official" shows the look-ahead embedded padding
    condition_dropout: float = 0.2  # share of rows trained without conditions, for guidance
    remat: str = "none"  # what the backward pass computes again, see layers.remat
    # Of the estimator; "splash" on TPU. The encoder's scores add distances, which no kernel does.
    attention: str = "whole"
    # Stages of the estimator and blocks of both run by scans: a program that compiles sooner.
    scan_layers: bool = False

    def __post_init__(self) -> None:
        check_policy(self.remat)
        for name, allowed in OPTIONS.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"flow training {name}={value!r}; {nearest(str(value), allowed)}")
        if not 0.0 <= self.condition_dropout <= 1.0:
            raise InputError(f"condition_dropout={self.condition_dropout} is not within [0, 1]")


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """Sizes and habits of the flow; the defaults are those of the official weights."""

    vocab_size: int = CODEBOOK_SIZE  # speech tokens
    speaker_dim: int = SPEAKER_DIM  # width of the speaker embedding
    mask_chunk: int = 25  # M: tokens per attention chunk when streaming; 25 are 1 s
    left_chunks: int = -1  # chunks before its own that a frame sees; -1 for all
    sigma_min: float = 1e-6  # noise left at t = 1
    guidance_scale: float = 0.7  # beta: velocity = (1 + beta) cond - beta uncond
    num_steps: int = 10  # Euler steps
    compute: str = "float32"  # operand type of products, see ops.product
    encoder: UpsampleEncoderConfig = UpsampleEncoderConfig()
    estimator: EstimatorConfig = EstimatorConfig()
    training: FlowTrainingConfig = FlowTrainingConfig()

    def __post_init__(self) -> None:
        if self.compute not in COMPUTE_TYPES:
            raise InputError(f"compute={self.compute!r}; {nearest(self.compute, COMPUTE_TYPES)}")
        if min(self.vocab_size, self.speaker_dim, self.mask_chunk, self.num_steps) < 1:
            raise InputError(f"sizes of the flow must be 1 or more, got {self}")
        if self.left_chunks < -1:
            raise InputError(f"left_chunks={self.left_chunks}; -1 (all), 0, 1, ... are allowed")


class FlowState(struct.PyTreeNode):
    """Everything the flow remembers between two calls."""

    encoder: EncoderState
    estimator: EstimatorState  # every leaf leads with [num_steps], rows are conditional, then not
    max_tokens: int = struct.field(pytree_node=False)  # length of the caches


class FlowMatching(nn.Module):
    """The acoustic model: [B, T] speech tokens -> [B, 2T, 80] mel."""

    config: FlowConfig

    def setup(self) -> None:
        c = self.config
        # 3 ** 8 rows divide over no even number of devices; the table is small.
        self.token_embed = Embed(c.vocab_size, c.encoder.embed_dim, axes=(None, "embed"))
        scanned = c.training.scan_layers
        self.encoder = UpsampleEncoder(c.encoder, c.compute, c.training.remat, scanned)
        self.encoder_proj = Dense(c.estimator.num_mels, axes=("embed", None), compute=c.compute)
        self.speaker_proj = Dense(c.estimator.num_mels)
        how = (c.training.remat, c.training.attention, scanned)
        self.estimator = Estimator(c.estimator, c.compute, *how)

    def __call__(
        self,
        speech_tokens: jax.Array,
        num_tokens: jax.Array,
        speaker_embedding: jax.Array,
        x: jax.Array,
        t: jax.Array,
    ) -> jax.Array:
        """Velocity [B, 2T, M] at the noisy mel `x` and the times `t` [B], under the full mask."""
        mu = self.encode(speech_tokens, num_tokens)
        conditions = Conditions(mu, self.speaker(speaker_embedding), jnp.zeros_like(mu))
        return self.velocity(x, t, conditions, FRAMES_PER_TOKEN * num_tokens)

    def encode(
        self,
        speech_tokens: jax.Array,
        num_tokens: jax.Array,
        *,
        kind: jax.Array | int = 0,
        num_held: jax.Array | int = 0,
        sanitize: bool = True,
    ) -> jax.Array:
        """Tells the mel as far as tokens can.

        Args:
          speech_tokens: int [B, T]; negative ids count as 0.
          num_tokens: int [B], valid tokens.
          kind: index in masks.MASK_KINDS, a number or [B].
          num_held: how many of the valid tokens are only looked at, a number or [B].
          sanitize: see `UpsampleEncoder`.

        Returns:
          [B, 2T, M] float32; the frames 2 (num_tokens - num_held) and later hold no meaning.
        """
        num_all = speech_tokens.shape[1]
        embedded = self._embed(speech_tokens, masks.valid(num_tokens, num_all))
        attention = self._masks(num_tokens - num_held, num_all, kind)
        return self.encoder_proj(self.encoder(embedded, num_tokens, attention, sanitize=sanitize))

    def speaker(self, speaker_embedding: jax.Array) -> jax.Array:
        """[B, 192] of any length -> [B, M], from the embedding's direction."""
        square = jnp.sum(jnp.square(speaker_embedding), axis=-1, keepdims=True)
        return self.speaker_proj(speaker_embedding / jnp.maximum(jnp.sqrt(square), 1e-12))

    def velocity(
        self,
        x: jax.Array,
        t: jax.Array,
        conditions: Conditions,
        num_frames: jax.Array,
        kind: jax.Array | int = 0,
    ) -> jax.Array:
        """Velocity of whole utterances: [B, F, M] at the times [B]; zero in the padding."""
        valid = masks.valid(num_frames, x.shape[1])
        x, conditions = sanitize_inputs(x, conditions, valid)
        describe = masks.whole if self.config.training.attention == "whole" else masks.ends
        mask = describe(num_frames, x.shape[1], self._chunk(kind, FRAMES_PER_TOKEN))
        return jnp.where(valid[..., None], self.estimator(x, t, conditions, mask), 0.0)

    def solve(
        self,
        noise: jax.Array,
        conditions: Conditions,
        num_frames: jax.Array,
        *,
        kind: jax.Array | int = 0,
        num_steps: int | None = None,
        guidance_scale: jax.Array | float | None = None,
    ) -> jax.Array:
        """Carries noise to mel: [B, F, M] float32, zero in the padding.

        Args:
          noise: [B, F, M] or [F, M].
          conditions: mu, speaker and prompt of the conditional rows.
          num_frames: int [B], valid frames.
          kind: index in masks.MASK_KINDS, a number or [B].
          num_steps: Euler steps, by default those of the config.
          guidance_scale: by default that of the config.
        """
        valid = masks.valid(num_frames, noise.shape[-2])
        noise = jnp.broadcast_to(noise, (valid.shape[0], *noise.shape[-2:]))
        noise, conditions = sanitize_inputs(noise, conditions, valid)
        limit = self._chunk(kind, FRAMES_PER_TOKEN)
        mask = masks.whole(num_frames, noise.shape[1], limit, self.config.left_chunks)
        num_steps = num_steps or self.config.num_steps
        mel, _ = self._euler(noise, None, (conditions, mask), num_steps, guidance_scale)
        return jnp.where(valid[..., None], mel, 0.0)

    def init_state(self, batch: int, max_tokens: int, num_steps: int | None = None) -> FlowState:
        """Returns the state before the start.

        Args:
          batch: rows.
          max_tokens: how far back attention reaches, in tokens; what is older is forgotten.
          num_steps: Euler steps of every later `step`.
        """
        steps = num_steps or self.config.num_steps
        one = self.estimator.init_state(2 * batch, FRAMES_PER_TOKEN * max_tokens)
        stacked = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), one)
        return FlowState(self.encoder.init_state(batch, max_tokens), stacked, max_tokens)

    def step(
        self,
        speech_tokens: jax.Array,
        state: FlowState,
        lookahead: jax.Array,
        *,
        speaker_embedding: jax.Array,
        prompt_mel: jax.Array,
        noise: jax.Array,
        num_valid: jax.Array | None = None,
        guidance_scale: jax.Array | float | None = None,
    ) -> tuple[jax.Array, FlowState]:
        """Speaks C tokens after peeking at A more; equal to the whole call under the chunk mask.

        The prompt is spoken first, by the same step, with its mel as `prompt_mel`.

        Args:
          speech_tokens: int [B, C]; C is a multiple of `mask_chunk`.
          state: what came before.
          lookahead: int [B, A], the tokens after these.
          speaker_embedding: [B, 192].
          prompt_mel: [B, 2C, M], zeros beyond the prompt.
          noise: [2C, M] or [B, 2C, M], that of the absolute frames 2 * position and on.
          num_valid: int [B], valid tokens among the C + A; all by default. At the end of an
            utterance the rest is padding.
          guidance_scale: by default that of the config.

        Returns:
          mel [B, 2C, M], and the state.

        Raises:
          InputError: C is no multiple of `mask_chunk`, or A is not the model's look-ahead.
        """
        batch, num_new = speech_tokens.shape
        self._check_call(num_new, lookahead.shape[1])
        if num_valid is None:
            num_valid = jnp.full((batch,), num_new + lookahead.shape[1], jnp.int32)
        both = jnp.concatenate([speech_tokens, lookahead], axis=1)
        embedded = self._embed(both, masks.valid(num_valid, both.shape[1]))
        spoken = jnp.minimum(num_valid, num_new)
        attention = self._window(state, spoken, num_new)
        features, encoder = self.encoder.step(
            embedded[:, :num_new], state.encoder, embedded[:, num_new:], num_valid, attention
        )
        valid = masks.valid(FRAMES_PER_TOKEN * spoken, FRAMES_PER_TOKEN * num_new)
        given = Conditions(self.encoder_proj(features), self.speaker(speaker_embedding), prompt_mel)
        noise, given = sanitize_inputs(jnp.broadcast_to(noise, given.mu.shape), given, valid)
        num_steps = state.estimator.down_conv.shape[0]
        mel, estimator = self._euler(
            noise, state.estimator, (given, attention.frames), num_steps, guidance_scale
        )
        mel = jnp.where(valid[..., None], mel, 0.0)
        return mel, FlowState(encoder, estimator, state.max_tokens)

    def _check_call(self, num_new: int, num_ahead: int) -> None:
        chunk, lookahead = self.config.mask_chunk, self.config.encoder.lookahead
        if num_new % chunk or num_new == 0:
            raise InputError(
                f"a call of {num_new} tokens must be a multiple of mask_chunk={chunk}; "
                f"use {chunk} or {2 * chunk}, and num_valid at the end of an utterance"
            )
        if num_ahead != lookahead:
            raise InputError(f"{num_ahead} look-ahead tokens were given; {lookahead} are needed")

    def _embed(self, speech_tokens: jax.Array, valid: jax.Array) -> jax.Array:
        return jnp.where(valid[..., None], self.token_embed(jnp.maximum(speech_tokens, 0)), 0.0)

    def _chunk(self, kind: jax.Array | int, factor: int = 1) -> jax.Array:
        return masks.chunk_of_kind(kind, factor * self.config.mask_chunk)

    def _masks(self, lengths: jax.Array, num_tokens: int, kind: jax.Array | int) -> Masks:
        return Masks(
            *(
                masks.whole(
                    f * lengths, f * num_tokens, self._chunk(kind, f), self.config.left_chunks
                )
                for f in (1, FRAMES_PER_TOKEN)
            )
        )

    def _window(self, state: FlowState, spoken: jax.Array, num_new: int) -> Masks:
        limits = {"left_chunks": self.config.left_chunks}
        return Masks(
            *(
                masks.window(
                    f * state.encoder.position,
                    f * spoken,
                    (f * state.max_tokens, f * num_new),
                    chunk=f * self.config.mask_chunk,
                    **limits,
                )
                for f in (1, FRAMES_PER_TOKEN)
            )
        )

    def _euler(
        self, noise: jax.Array, states: Any, seen: tuple, num_steps: int, guidance_scale: Any
    ) -> tuple[jax.Array, Any]:
        estimator, variables = self.estimator.unbind()
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale
        steps = ode.time_steps(ode.cosine_grid(num_steps))
        return carry(
            estimator, variables, noise, states, seen=seen, steps=steps, scale=guidance_scale
        )


def init_params(config: FlowConfig, key: jax.Array) -> Any:
    """Returns freshly drawn parameters, unboxed: {"encoder": ..., "estimator": ..., ...}."""
    return nn.meta.unbox(init_boxed(config, key))


def init_boxed(config: FlowConfig, key: jax.Array) -> Any:
    """Returns freshly drawn parameters whose leaves carry their logical axis names."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    counts = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.int32)
    mel = shape(1, 2 * FRAMES_PER_TOKEN, config.estimator.num_mels)
    inputs = (counts(1, 2), counts(1), shape(1, config.speaker_dim), mel, shape(1))
    # Neither has parameters of its own.
    training = dataclasses.replace(config.training, attention="whole", scan_layers=False)
    config = dataclasses.replace(config, training=training)
    # Only the parameters are computed: one program for all 1100 draws takes minutes to compile.
    return FlowMatching(config).lazy_init(key, *inputs)["params"]
