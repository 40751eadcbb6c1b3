"""The filter of the causal vocoder: an excitation and a mel to a waveform, frame by frame.

The generator of HiFT with causal convolutions: mel frames are upsampled by repeating, the source's
short-time spectrum joins in at every rate, and the last rate's frames are spectra of the output,
whose windows begin at the present sample.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.layers import causal_vocoder as layers
from cosyjax.layers.basic import Conv
from cosyjax.layers.causal_vocoder import Span
from cosyjax.layers.vocoder import NormedConv, keep
from cosyjax.models.hift import HiFTConfig, polar
from cosyjax.ops import short_stft

LAST_WIDTH = 7  # taps of the last convolution


class FilterState(struct.PyTreeNode):
    """What the filter remembers of a stream; all float32, zero before the start."""

    excitation: jax.Array  # [B, n_fft - hop] samples of the source
    upsamples: tuple[jax.Array, ...]  # inputs of convolutions, [B, frames, D] each
    source_downs: tuple[jax.Array, ...]
    source_blocks: tuple[tuple[jax.Array, ...], ...]
    blocks: tuple[tuple[tuple[jax.Array, ...], ...], ...]  # by stage and block
    last: jax.Array
    tail: jax.Array  # [B, n_fft - hop] what is known of the samples to come


class CausalFilter(nn.Module):
    """The generator."""

    config: HiFTConfig

    def setup(self) -> None:
        cfg = self.config
        shared: dict[str, Any] = {"kernels": cfg.kernels, "compute": cfg.compute}
        block = layers.CausalResidualBlock
        width = layers.BEHIND_FRAMES + 1 + cfg.lookahead
        self.first = NormedConv(cfg.base_channels, width, **shared)
        self.upsamples = [
            layers.RepeatConv(cfg.channels(i), width, rate, **shared)
            for i, (rate, width) in enumerate(zip(cfg.upsample_rates, cfg.upsample_widths))
        ]
        self.source_downs = [self._source_down(i) for i in range(len(cfg.upsample_rates))]
        self.source_blocks = [
            block(width, dilations, **shared)
            for width, dilations in zip(cfg.source_block_widths, cfg.source_block_dilations)
        ]
        self.blocks = [
            [
                block(width, dilations, **shared)
                for width, dilations in zip(cfg.block_widths, cfg.block_dilations)
            ]
            for _ in cfg.upsample_rates
        ]
        self.last = layers.CausalNormedConv(cfg.n_fft + 2, LAST_WIDTH, **shared)

    def _source_down(self, stage: int) -> Conv:
        """Brings the source's spectrum to the rate after upsampling number `stage`."""
        stride = self._stride(stage)
        width = 1 if stride == 1 else 2 * stride
        return Conv(self.config.channels(stage), width, stride, compute=self.config.compute)

    def _stride(self, stage: int) -> int:
        return math.prod(self.config.upsample_rates[stage + 1 :])

    def init_state(self, batch: int) -> FilterState:
        """Silence before `batch` rows."""
        cfg, stages = self.config, range(len(self.config.upsample_rates))
        overlap = (batch, cfg.n_fft - cfg.hop)
        spans = [0 if self._stride(i) == 1 else self._stride(i) for i in stages]
        return FilterState(
            excitation=jnp.zeros(overlap, jnp.float32),
            upsamples=tuple(
                up.init_state(batch, cfg.base_channels // 2**i)
                for i, up in enumerate(self.upsamples)
            ),
            source_downs=tuple(layers.silence(batch, span, cfg.n_fft + 2) for span in spans),
            source_blocks=tuple(
                block.init_state(batch, cfg.channels(i))
                for i, block in enumerate(self.source_blocks)
            ),
            blocks=tuple(
                tuple(block.init_state(batch, cfg.channels(i)) for block in blocks)
                for i, blocks in enumerate(self.blocks)
            ),
            last=self.last.init_state(batch, cfg.channels(len(stages) - 1)),
            tail=jnp.zeros(overlap, jnp.float32),
        )

    def step(
        self, window: jax.Array, excitation: jax.Array, state: FilterState | None, span: Span
    ) -> tuple[jax.Array, FilterState]:
        """Advances by F frames.

        Args:
          window: [B, 2 + F + lookahead, M] the mel with its surroundings.
          excitation: [B, F * 480], zero before a row's start.
          state: from `init_state` or the step before; None is silence.
          span: which frames are those of the rows.

        Returns:
          [B, F * 480] float32 in [-0.99, 0.99], zero where `span` says so, and the state.
        """
        cfg = self.config
        if state is None:
            state = self.init_state(window.shape[0])
        overlap, samples = cfg.n_fft - cfg.hop, span.at(cfg.samples_per_frame)
        joined = jnp.concatenate([state.excitation, excitation], axis=1)
        spectrum = short_stft.transform_unpadded(joined, n_fft=cfg.n_fft, hop=cfg.hop)
        x, ups, downs, source_blocks, blocks = self.first(window), [], [], [], []
        for stage in range(len(cfg.upsample_rates)):
            x, up = self._upsample(x, stage, state, span)
            x, (down, source_block, block) = self._fuse(x, spectrum, stage, state, span)
            ups.append(up)
            downs.append(down)
            source_blocks.append(source_block)
            blocks.append(block)
        rate = math.prod(cfg.upsample_rates)
        x = keep(nn.leaky_relu(x, cfg.last_slope), span.started(x.shape[1], rate))
        x, last = self.last.step(x, state.last, span.at(rate))
        x = keep(polar(x, cfg.max_magnitude), span.spoken(x.shape[1], rate))
        sums = short_stft.inverse_sums(x, n_fft=cfg.n_fft, hop=cfg.hop)
        sums = sums + jnp.pad(state.tail, ((0, 0), (0, excitation.shape[1])))
        wav = jnp.clip(sums[:, : excitation.shape[1]], -cfg.limit, cfg.limit)
        spoken = span.spoken(wav.shape[1], cfg.samples_per_frame)
        return keep(wav[..., None], spoken)[..., 0], FilterState(
            excitation=layers.remember(joined, overlap, samples),
            upsamples=tuple(ups),
            source_downs=tuple(downs),
            source_blocks=tuple(source_blocks),
            blocks=tuple(blocks),
            last=last,
            tail=layers.remember(sums, overlap, samples),
        )

    def _upsample(
        self, x: jax.Array, stage: int, state: FilterState, span: Span
    ) -> tuple[jax.Array, jax.Array]:
        """Rectifies and upsamples: [B, T, D] -> [B, T * rate, D / 2]."""
        rate = math.prod(self.config.upsample_rates[:stage])
        x = keep(nn.leaky_relu(x, self.config.slope), span.started(x.shape[1], rate))
        return self.upsamples[stage].step(x, state.upsamples[stage], span.at(rate))

    def _fuse(
        self, x: jax.Array, spectrum: jax.Array, stage: int, state: FilterState, span: Span
    ) -> tuple[jax.Array, tuple[Any, Any, Any]]:
        """Adds the source's spectrum at this rate and averages the residual blocks."""
        cfg = self.config
        rate = math.prod(cfg.upsample_rates[: stage + 1])
        mask, advance = span.started(x.shape[1], rate), span.at(rate)
        before = state.source_downs[stage]
        fine = span.at(math.prod(cfg.upsample_rates))
        joined, down = layers.join(spectrum, before, before.shape[1], fine)
        share = self.source_downs[stage](joined)
        share, source_block = self.source_blocks[stage].step(
            share, state.source_blocks[stage], mask, advance
        )
        x = x + share
        found = [
            block.step(x, own, mask, advance)
            for block, own in zip(self.blocks[stage], state.blocks[stage], strict=True)
        ]
        total = sum((y for y, _ in found[1:]), found[0][0])
        return total / len(found), (down, source_block, tuple(own for _, own in found))
