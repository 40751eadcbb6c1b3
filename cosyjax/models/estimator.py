"""The velocity estimator of the flow: a causal, chunk-masked stack over mel frames.

CosyVoice 2 (arXiv 2412.10117) section 2.4. The noisy mel, what the tokens say, the speaker and
the prompt's mel are laid side by side per frame; a down stage, twelve middle stages and an up
stage with a skip follow, each a resnet block and transformer blocks. Nothing changes the frame
rate. Only convolutions and attention look at other frames, and all of those stream.
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
from cosyjax.layers.basic import Conv
from cosyjax.layers.chunk_cache import ChunkCache
from cosyjax.layers.conv import CausalConv
from cosyjax.layers.estimator import (
    CausalBlock,
    CausalResnet,
    ChunkTransformer,
    ResnetState,
    TimeEmbedding,
)
from cosyjax.layers.remat import remat
from cosyjax.layers.stacking import run_scanned
from cosyjax.shapes import NUM_MELS


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """Sizes of the velocity estimator."""

    num_mels: int = NUM_MELS  # mel bins in and out
    embed_dim: int = 256  # channels of every stage
    time_dim: int = 1024  # width of the time embedding
    num_mid_stages: int = 12  # stages between the down and the up stage
    num_blocks: int = 4  # transformer blocks per stage
    num_heads: int = 8
    head_dim: int = 64  # width of a head; heads * width may differ from embed_dim
    mlp_dim: int = 1024  # hidden width of the transformers' feed-forward
    conv_width: int = 3  # frames that a convolution sees, itself and those before
    fused: bool = False  # query, key and value in one product: a form for inference, never saved

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = 0 if field.name in ("num_mid_stages", "num_blocks", "fused") else 1
            if getattr(self, field.name) < least:
                value = getattr(self, field.name)
                raise InputError(
                    f"EstimatorConfig.{field.name}={value}; at least {least} is needed"
                )


class Conditions(NamedTuple):
    """What the velocity depends on besides the noisy mel and the time."""

    mu: jax.Array  # [B, F, M], the mel as the tokens tell it
    speaker: jax.Array  # [B, M]
    prompt_mel: jax.Array  # [B, F, M], zeros beyond the prompt

    def unconditional(self) -> Conditions:
        """All zeros: the other side of guidance, and what condition dropout leaves."""
        return Conditions(*(jnp.zeros_like(part) for part in self))


class StageState(struct.PyTreeNode):
    """A stage between two calls."""

    resnet: ResnetState
    blocks: tuple[ChunkCache, ...]


class EstimatorState(struct.PyTreeNode):
    """The estimator between two calls, at one solver step."""

    stages: tuple[StageState, ...]  # down, middle ones, up
    down_conv: jax.Array
    up_conv: jax.Array
    final: jax.Array


class Stage(nn.Module):
    """A resnet block and transformer blocks: [B, F, in_features] -> [B, F, D]."""

    config: EstimatorConfig
    in_features: int
    compute: str
    remat: str = "none"
    attention: str = "whole"
    scanned: bool = False  # blocks of a whole utterance run by a scan, see Estimator.scan_layers

    def setup(self) -> None:
        c = self.config
        block = remat(ChunkTransformer, self.remat, ["step"])
        self.resnet = CausalResnet(self.in_features, c.embed_dim, c.conv_width, self.compute)
        self.blocks = [
            block(
                *(c.embed_dim, c.num_heads, c.head_dim, c.mlp_dim),
                compute=self.compute,
                fused=c.fused,
                attention=self.attention,
            )
            for _ in range(c.num_blocks)
        ]

    def init_state(self, batch: int, max_frames: int) -> StageState:
        """Returns zeros before the start and empty caches of `max_frames` frames."""
        blocks = tuple(block.init_state(batch, max_frames) for block in self.blocks)
        return StageState(self.resnet.init_state(batch), blocks)

    def step(
        self, x: jax.Array, state: StageState | None, shift: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, StageState | None]:
        """Advances by `x` [B, C, in_features]; `mask` as in `ChunkTransformer.step`."""
        x = sharding.keep_rows(x)
        x, resnet = self.resnet.step(x, None if state is None else state.resnet, shift)
        if self.scanned and state is None and self.blocks:
            advance = lambda block, x: block(x, None, mask)[0]
            return run_scanned(self, "blocks", self.blocks, advance, x), None
        after: list[Any] = []
        for i, block in enumerate(self.blocks):
            x = sharding.keep_rows(x)
            x, cache = block.step(x, None if state is None else state.blocks[i], mask)
            after.append(cache)
        return x, None if state is None else StageState(resnet, tuple(after))


class Estimator(nn.Module):
    """(noisy mel, time, conditions, mask) -> velocity."""

    config: EstimatorConfig
    compute: str = "float32"
    remat: str = "none"  # of the transformer blocks, see layers.remat
    attention: str = "whole"  # of the transformer blocks, see FlowTrainingConfig
    # Whole utterances go through middle stages, and through the blocks of a stage, by a scan over
    # parameters that are stacked for the call: the program holds one of each. A state would be
    # copied; it goes stage by stage.
    scan_layers: bool = False

    def setup(self) -> None:
        c = self.config
        d, inputs = c.embed_dim, 4 * c.num_mels
        how = (self.compute, self.remat, self.attention, self.scan_layers)
        stage = lambda features: Stage(c, features, *how)
        self.time = TimeEmbedding(inputs, c.time_dim)
        self.down = stage(inputs)
        self.down_conv = CausalConv(d, d, c.conv_width, self.compute)
        self.mid = [stage(d) for _ in range(c.num_mid_stages)]
        self.up = stage(2 * d)
        self.up_conv = CausalConv(d, d, c.conv_width, self.compute)
        self.final = CausalBlock(d, d, c.conv_width, self.compute)
        self.out = Conv(c.num_mels, width=1, axes=(None, "embed", None), compute=self.compute)

    def shifts(self, t: jax.Array) -> tuple[jax.Array, ...]:
        """What the times [S] add in each stage: one [S, D] per stage.

        The times of all solver steps go through here at once, outside the solver's loop.
        """
        time = self.time(t)
        return tuple(stage.resnet.shift(time) for stage in (self.down, *self.mid, self.up))

    def __call__(
        self, x: jax.Array, t: jax.Array, conditions: Conditions, mask: jax.Array
    ) -> jax.Array:
        """Estimates the velocity of a whole utterance.

        Args:
          x: [B, F, M] noisy mel; must be finite in the padding too.
          t: [B] in [0, 1].
          conditions: finite in the padding too.
          mask: bool [B, F, F], which frames a frame may look at; for a kernel as `masks.ends`.

        Returns:
          [B, F, M]; frames of the padding hold no meaning.
        """
        return self.step(x, None, shifts=self.shifts(t), conditions=conditions, mask=mask)[0]

    def init_state(self, batch: int, max_frames: int) -> EstimatorState:
        """Returns zeros before the start and empty caches of `max_frames` frames."""
        stages = (self.down, *self.mid, self.up)
        return EstimatorState(
            tuple(stage.init_state(batch, max_frames) for stage in stages),
            self.down_conv.init_state(batch),
            self.up_conv.init_state(batch),
            self.final.init_state(batch),
        )

    def step(
        self,
        x: jax.Array,
        state: EstimatorState | None,
        *,
        shifts: tuple[jax.Array, ...],
        conditions: Conditions,
        mask: jax.Array,
    ) -> tuple[jax.Array, EstimatorState | None]:
        """Advances by whole mask chunks at one solver step.

        Args:
          x: [B, C, M] noisy mel of the new frames.
          state: what this solver step remembers, or None for a whole utterance (L = 0).
          shifts: one [B or 1, D] per stage, from `shifts`.
          conditions: of the new frames.
          mask: bool [B, C, L + C].

        Returns:
          velocity [B, C, M], and the state.
        """
        old = lambda name: None if state is None else getattr(state, name)
        speaker = jnp.broadcast_to(conditions.speaker[:, None], x.shape)
        inputs = [x, conditions.mu, speaker, conditions.prompt_mel]
        after: list[Any] = []
        h = skip = jnp.concatenate(inputs, axis=-1)
        scanned = self.scan_layers and state is None
        for i, stage in enumerate((self.down, *self.mid, self.up)):
            if scanned and 0 < i <= len(self.mid):
                if i == 1:
                    advance = lambda stage, h, shift: stage(h, None, shift, mask)[0]
                    h = run_scanned(self, "mid", self.mid, advance, h, jnp.stack(shifts[1:-1]))
                continue
            if stage is self.up:
                h = jnp.concatenate([h, skip], axis=-1)
            h, new = stage.step(h, None if state is None else state.stages[i], shifts[i], mask)
            after.append(new)
            if stage is self.down:
                skip = h
                h, down_conv = self.down_conv.step(h, old("down_conv"))
        h, up_conv = self.up_conv.step(h, old("up_conv"))
        h, final = self.final.step(h, old("final"))
        if state is None:
            return self.out(h), None
        return self.out(h), EstimatorState(tuple(after), down_conv, up_conv, final)
