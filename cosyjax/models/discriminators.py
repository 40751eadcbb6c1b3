"""Multi-period and multi-resolution discriminators: the critics that train the vocoder.

Multi-period (HiFi-GAN, arXiv:2010.05646 section 2.3): the samples are folded into rows of one
period, so that a tall kernel compares samples that lie a period apart. Multi-resolution
(UnivNet, arXiv:2106.07889 section 2.2): a picture of spectral magnitudes per STFT size. Every
convolution is weight-normed; training only. Sizes are those of the official CosyVoice 2 code.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.layers.basic import Axes, boxed
from cosyjax.layers.weight_norm import weight_norm_kernel
from cosyjax.ops import product, stft
from cosyjax.ops.conv2d import conv2d

OUT_AXES = (None, None, "embed", None)  # of a kernel [rows, columns, in, 1]


def _require(fits: bool, name: str, given: Any, allowed: str) -> None:
    if not fits:
        raise InputError(f"{name}={given}; must be {allowed}")


def _require_compute(compute: str) -> None:
    allowed = product.COMPUTE_TYPES
    _require(compute in allowed, "compute", repr(compute), "one of " + ", ".join(allowed))


@dataclasses.dataclass(frozen=True)
class MultiPeriodConfig:
    """One branch per period; 41 105 770 parameters at the default sizes."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples per row
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)  # of each convolution
    width: int = 5  # rows under a kernel, odd
    stride: int = 3  # rows between outputs; the last convolution has 1
    out_width: int = 3  # rows under the kernel that gives the score, odd
    negative_slope: float = 0.1  # of the leaky ReLU
    compute: str = "float32"  # operand type of products

    def __post_init__(self) -> None:
        _require(all(period > 0 for period in self.periods), "periods", self.periods, "positive")
        _require(bool(self.channels), "channels", self.channels, "at least one")
        odd = self.width % 2 == 1 and self.out_width % 2 == 1
        _require(odd, "width, out_width", (self.width, self.out_width), "odd")
        _require(self.stride > 0, "stride", self.stride, "positive")
        _require_compute(self.compute)


@dataclasses.dataclass(frozen=True)
class MultiResolutionConfig:
    """One branch per STFT size; 280 902 parameters at the default sizes."""

    # (FFT size, hop, window), samples
    resolutions: tuple[tuple[int, int, int], ...] = (
        (1024, 120, 600),
        (2048, 240, 1200),
        (512, 50, 240),
    )
    channels: int = 32  # of each convolution
    num_strided: int = 3  # convolutions that halve the number of bins
    kernel: tuple[int, int] = (3, 9)  # frames, bins; odd
    out_kernel: tuple[int, int] = (3, 3)  # of the last hidden and the score convolution; odd
    negative_slope: float = 0.1  # of the leaky ReLU
    compute: str = "float32"  # operand type of products

    def __post_init__(self) -> None:
        for size in self.resolutions:
            fits = size[1] > 0 and 0 < size[2] <= size[0]
            _require(fits, "resolutions", size, "(FFT size, hop > 0, window <= FFT size)")
        sizes = self.kernel + self.out_kernel
        _require(all(size % 2 for size in sizes), "kernel, out_kernel", sizes, "odd")
        _require_compute(self.compute)


@dataclasses.dataclass(frozen=True)
class DiscriminatorsConfig:
    """Both families."""

    multi_period: MultiPeriodConfig = MultiPeriodConfig()
    multi_resolution: MultiResolutionConfig = MultiResolutionConfig()

    def min_samples(self) -> int:
        """The shortest waveform that every branch can reflect at its ends."""
        halves = [size[0] // 2 + 1 for size in self.multi_resolution.resolutions]
        return max(halves + list(self.multi_period.periods), default=1)


class Judgement(NamedTuple):
    """What one branch says of a batch of waveforms."""

    score: jax.Array  # [B, K], 1 = real
    features: tuple[jax.Array, ...]  # [B, rows, columns, channels] after each convolution


class WeightNormConv2D(nn.Module):
    """[B, rows, columns, D] -> [B, rows', columns', features]; zero padding of half a kernel."""

    features: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    axes: Axes = (None, None, None, None)
    compute: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = self.kernel_size
        shape = (rows, columns, x.shape[-1], self.features)
        kernel = weight_norm_kernel(self, shape, self.axes)
        zeros = boxed(nn.initializers.zeros, self.axes[3:])
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        padding = (rows // 2, columns // 2)
        y = conv2d(x, kernel, stride=self.stride, padding=padding, compute=self.compute)
        return y + bias


class PeriodDiscriminator(nn.Module):
    """Judges waveforms by the samples that lie one period apart."""

    config: MultiPeriodConfig
    period: int

    @nn.compact
    def __call__(self, wav: jax.Array) -> Judgement:
        """wav: [B, N] at 24 kHz; the end is reflected up to a whole period."""
        cfg, features = self.config, []
        x = fold(wav, self.period)[..., None]
        for i, channels in enumerate(cfg.channels):
            stride = cfg.stride if i + 1 < len(cfg.channels) else 1
            axes = OUT_AXES[:2] + ("embed" if i else None, "mlp")
            size = (cfg.width, 1)
            conv = WeightNormConv2D(
                channels, size, (stride, 1), axes, cfg.compute, name=f"convs_{i}"
            )
            x = jax.nn.leaky_relu(conv(x), cfg.negative_slope)
            features.append(x)
        size = (cfg.out_width, 1)
        x = WeightNormConv2D(1, size, (1, 1), OUT_AXES, cfg.compute, name="out")(x)
        return Judgement(x.reshape(x.shape[0], -1), (*features, x))


class ResolutionDiscriminator(nn.Module):
    """Judges waveforms by the picture of their spectral magnitudes."""

    config: MultiResolutionConfig
    resolution: tuple[int, int, int]  # (FFT size, hop, window), samples

    @nn.compact
    def __call__(self, wav: jax.Array) -> Judgement:
        """wav: [B, N] at 24 kHz, N > FFT size / 2."""
        cfg, features = self.config, []
        x = magnitudes(wav, *self.resolution)[..., None]
        plan = [(cfg.kernel, (1, 1)), *[(cfg.kernel, (1, 2))] * cfg.num_strided]
        for i, (size, stride) in enumerate([*plan, (cfg.out_kernel, (1, 1))]):
            axes = OUT_AXES[:2] + ("embed" if i else None, "mlp")
            conv = WeightNormConv2D(
                cfg.channels, size, stride, axes, cfg.compute, name=f"convs_{i}"
            )
            x = jax.nn.leaky_relu(conv(x), cfg.negative_slope)
            features.append(x)
        x = WeightNormConv2D(1, cfg.out_kernel, (1, 1), OUT_AXES, cfg.compute, name="out")(x)
        return Judgement(x.reshape(x.shape[0], -1), (*features, x))


class Discriminators(nn.Module):
    """All branches, multi-period first."""

    config: DiscriminatorsConfig = DiscriminatorsConfig()

    @nn.compact
    def __call__(self, wav: jax.Array) -> list[Judgement]:
        """Judges waveforms.

        Args:
          wav: [B, N] at 24 kHz, in [-1, 1].

        Returns:
          a judgement per branch.

        Raises:
          InputError: `wav` is not [B, N] or shorter than `config.min_samples()`.
        """
        cfg = self.config
        shapes.check(wav, "B N", "wav")
        if wav.shape[1] < cfg.min_samples():
            needed = cfg.min_samples()
            raise InputError(f"wav has {wav.shape[1]} samples; the discriminators need {needed}")
        by_period = [
            PeriodDiscriminator(cfg.multi_period, period, name=f"periods_{i}")(wav)
            for i, period in enumerate(cfg.multi_period.periods)
        ]
        by_resolution = [
            ResolutionDiscriminator(cfg.multi_resolution, size, name=f"resolutions_{i}")(wav)
            for i, size in enumerate(cfg.multi_resolution.resolutions)
        ]
        return by_period + by_resolution


def init_params(config: DiscriminatorsConfig, key: jax.Array) -> Any:
    """Draws the unboxed parameter tree."""
    wav = jnp.zeros((1, config.min_samples()), jnp.float32)
    return nn.meta.unbox(Discriminators(config).init(key, wav))["params"]


def fold(wav: jax.Array, period: int) -> jax.Array:
    """[B, N] -> [B, ceil(N / period), period]; the missing end is a reflection."""
    missing = -wav.shape[1] % period
    wav = jnp.pad(wav, ((0, 0), (0, missing)), mode="reflect")
    return wav.reshape(wav.shape[0], -1, period)


def magnitudes(wav: jax.Array, fft_size: int, hop: int, window: int) -> jax.Array:
    """STFT magnitudes: no power, no logarithm.

    Args:
      wav: [B, N], N > fft_size / 2.
      fft_size: samples of a transform; frames are centred on multiples of `hop`.
      hop: samples between frames.
      window: samples of the Hann window, in the middle of the transform.

    Returns:
      [B, N // hop + 1, fft_size // 2 + 1]. The gradient at zero magnitude is zero, not NaN.
    """
    padded = stft.reflect_pad(wav.astype(jnp.float32), fft_size // 2)
    hann = stft.hann_window(window)
    spectrum = stft.stft(padded, n_fft=fft_size, hop=hop, window=hann)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.where(power > 0, jnp.sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
