"""How many mel frames before and after its own a sample of HiFT depends on.

Counted from the sizes alone, layer by layer from the output back. The source's phase, which sums
up F0 from the start, is not counted: whoever speaks a part of an utterance carries it along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cosyjax.models.hift import HiFTConfig


class Field(NamedTuple):
    """Frames that the samples of one frame depend on, beside it."""

    behind: int  # of mel and source, where F0 is known
    ahead: int  # of mel, from which F0 is predicted too


class Span(NamedTuple):
    """First and last index of what is seen."""

    first: int
    last: int

    def wider(self, before: int, after: int) -> Span:
        return Span(self.first - before, self.last + after)

    def union(self, other: Span) -> Span:
        return Span(min(self.first, other.first), max(self.last, other.last))


def receptive_field(config: HiFTConfig) -> Field:
    """Returns the field of a vocoder that is not causal; what lies beyond changes no bit."""
    mel, samples = decoder_field(config)
    rate = config.samples_per_frame
    # From the centre of a frame on the phase runs towards the next frame's F0.
    f0_last = (samples.last + rate // 2) // rate
    behind = max(-mel.first, -(samples.first // rate))
    return Field(behind, max(mel.last, f0_last + config.f0_layers))


def decoder_field(config: HiFTConfig) -> tuple[Span, Span]:
    """Mel frames and source samples that the samples of frame 0 depend on."""
    stages = len(config.upsample_rates)
    spectrum: Span | None = None
    seen = _spectrum_of(Span(0, config.samples_per_frame - 1), config).wider(3, 3)
    for stage in reversed(range(stages)):
        reach = max(map(_block_reach, config.block_widths, config.block_dilations))
        seen = seen.wider(reach, reach)
        source = _before_down(seen, stage, config)
        spectrum = source if spectrum is None else spectrum.union(source)
        if stage == stages - 1:
            seen = Span(seen.first - 1, seen.last - 1)  # behind the mirrored frame
        seen = _before_upsample(seen, config.upsample_rates[stage], config.upsample_widths[stage])
    assert spectrum is not None
    half = config.n_fft // 2
    # A window's first point is zero.
    samples = Span(config.hop * spectrum.first - half + 1, config.hop * spectrum.last + half - 1)
    return seen.wider(3, 3), samples


def _spectrum_of(samples: Span, config: HiFTConfig) -> Span:
    """Output spectra whose windows reach the samples, and which their division is made of."""
    half, hop = config.n_fft // 2, config.hop
    return Span(-((half - 1 - samples.first) // hop), (samples.last + half - 1) // hop)


def _block_reach(width: int, dilations: Sequence[int]) -> int:
    """Steps to each side that a residual block sees."""
    return sum((width - 1) // 2 * (dilation + 1) for dilation in dilations)


def _before_down(seen: Span, stage: int, config: HiFTConfig) -> Span:
    """Frames of the source's spectrum behind what a stage sees."""
    reach = _block_reach(config.source_block_widths[stage], config.source_block_dilations[stage])
    seen = seen.wider(reach, reach)
    stride = math.prod(config.upsample_rates[stage + 1 :])
    width, pad = (1, 0) if stride == 1 else (2 * stride, stride // 2)
    return Span(seen.first * stride - pad, seen.last * stride - pad + width - 1)


def _before_upsample(seen: Span, rate: int, width: int) -> Span:
    """What goes into a transposed convolution."""
    pad = (width - rate) // 2
    return Span(-((width - 1 - pad - seen.first) // rate), (seen.last + pad) // rate)
