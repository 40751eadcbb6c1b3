"""HiFT: mel to wav through a sine source, a filtering generator and an inverse STFT.

The vocoder of CosyVoice 2 (arXiv:2412.10117, which does not describe it) in the manner of HiFTNet
(Li et al. 2023, arXiv:2309.09493): F0 is predicted from the mel, a sum of harmonics is the source,
and the generator turns mel and source spectrum into the spectrum of the output.

Non-causal: every output sample depends on frames before and after it. Rows of a padded batch give
what they give alone, because each convolution sees zeros beyond a row's true end. The causal
vocoder of the same config is in `models.causal_hift`; `models.vocoder` tells one from the other.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.layers.basic import Conv, Dense
from cosyjax.layers.vocoder import NormedConv, ResidualBlock, fold_kernels, keep
from cosyjax.ops import product, short_stft, source
from cosyjax.ops.product import COMPUTE_TYPES

KERNELS = ("normed", "plain", "tiled")  # see `layers.vocoder.NormedConv`


@dataclasses.dataclass(frozen=True)
class HiFTConfig:
    """Sizes of the vocoder, causal or not; the defaults are the official ones."""

    num_mels: int = shapes.NUM_MELS
    base_channels: int = 512  # after the first convolution; halved by each upsampling
    upsample_rates: tuple[int, ...] = (8, 5, 3)  # times hop = samples per mel frame
    upsample_widths: tuple[int, ...] = (16, 11, 7)  # taps of the convolutions that upsample
    block_widths: tuple[int, ...] = (3, 7, 11)  # taps, one residual block each, averaged
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    source_block_widths: tuple[int, ...] = (7, 7, 11)  # one block per upsampling
    source_block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    n_fft: int = 16  # samples; of source and output spectrum
    hop: int = 4  # samples
    slope: float = 0.1  # of the leaky rectifiers before upsampling
    last_slope: float = 0.01  # of the one before the last convolution
    max_magnitude: float = 100.0  # of an output bin
    limit: float = 0.99  # of an output sample
    f0_channels: int = 512
    f0_layers: int = 5
    sample_rate_hz: int = shapes.SAMPLE_RATE_HZ
    num_harmonics: int = 8  # overtones beside the fundamental
    sine_amplitude: float = 0.1
    noise_std: float = 0.003  # in voiced frames; sine_amplitude / 3 in unvoiced ones
    voiced_threshold_hz: float = 10.0
    causal: bool = False  # streams exactly: see `models.causal_hift`
    lookahead: int = 4  # mel frames that a causal vocoder sees beyond the present one
    kernels: str = "normed"  # "plain" or "tiled" after `fold_weight_norm`
    compute: str = "float32"  # operands of the generator's products; F0 and spectra are float32

    def __post_init__(self) -> None:
        stages = len(self.upsample_rates)
        lists = (self.upsample_widths, self.source_block_widths, self.source_block_dilations)
        if any(len(values) != stages for values in lists):
            raise InputError(f"upsample_rates has {stages} entries; so must every list per stage")
        if len(self.block_widths) != len(self.block_dilations):
            raise InputError("block_widths and block_dilations must be equally long")
        if self.base_channels % 2**stages:
            raise InputError(f"base_channels={self.base_channels} must divide by {2**stages}")
        for rate, width in zip(self.upsample_rates, self.upsample_widths):
            if width < rate or (width - rate) % 2:
                raise InputError(f"upsample width {width} must be rate {rate} plus an even number")
        if any(width % 2 == 0 for width in self.block_widths + self.source_block_widths):
            raise InputError("block widths must be odd, so that a block keeps the length")
        if self.n_fft % 2 or self.n_fft % self.hop or self.samples_per_frame % 2:
            raise InputError(f"n_fft={self.n_fft} must be even and a multiple of hop={self.hop}")
        if self.causal and self.n_fft < 2 * self.hop:
            raise InputError(f"n_fft={self.n_fft} of a causal vocoder must be at least twice hop")
        if self.lookahead < 0:
            raise InputError(f"lookahead={self.lookahead} must be at least 0 mel frames")
        if self.kernels not in KERNELS:
            raise InputError(f"kernels={self.kernels!r}; allowed: {', '.join(KERNELS)}")
        if self.kernels == "tiled" and self.compute != "float32":
            raise InputError("kernels='tiled' needs compute='float32'; fold again for another type")
        if self.compute not in COMPUTE_TYPES:
            raise InputError(f"compute={self.compute!r}; allowed: {', '.join(COMPUTE_TYPES)}")

    @property
    def samples_per_frame(self) -> int:
        return math.prod(self.upsample_rates) * self.hop

    @property
    def noise_channels(self) -> int:
        """Values per sample of the noise that the vocoder takes."""
        return 1 if self.causal else self.num_harmonics + 1

    def channels(self, stage: int) -> int:
        """Channels after upsampling number `stage`."""
        return self.base_channels // 2 ** (stage + 1)


class F0Predictor(nn.Module):
    """mel [B, F, M] -> F0 [B, F] in Hz, not negative; always in float32.

    Once folded it never convolves by tiles: a stream adds F0 up to a phase, so it must round the
    same wherever a call begins, and on a CPU a direct convolution does.
    """

    config: HiFTConfig

    @nn.compact
    def __call__(self, mel: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x, folded = mel, self.config.kernels != "normed"
        for i in range(self.config.f0_layers):
            conv = NormedConv(
                self.config.f0_channels,
                3,
                padding=1,
                kernels="plain" if folded else "normed",
                direct=folded,
                name=f"conv_{i}",
            )
            x = nn.elu(conv(keep(x, mask)))
        return jnp.abs(keep(Dense(1, name="output")(x), mask))[..., 0]


class HiFT(nn.Module):
    """The vocoder. `lengths` are [B] valid mel frames; None means that every row is full."""

    config: HiFTConfig = HiFTConfig()

    def setup(self) -> None:
        cfg = self.config
        shared: dict[str, Any] = {"kernels": cfg.kernels, "compute": cfg.compute}
        self.f0_predictor = F0Predictor(cfg)
        self.source_mix = Dense(1)
        self.first = NormedConv(cfg.base_channels, 7, padding=3, **shared)
        self.upsamples = [
            NormedConv(
                cfg.channels(i),
                width,
                stride=rate,
                padding=(width - rate) // 2,
                transposed=True,
                **shared,
            )
            for i, (rate, width) in enumerate(zip(cfg.upsample_rates, cfg.upsample_widths))
        ]
        self.source_downs = [self._source_down(i) for i in range(len(cfg.upsample_rates))]
        self.source_blocks = [
            ResidualBlock(width, dilations, **shared)
            for width, dilations in zip(cfg.source_block_widths, cfg.source_block_dilations)
        ]
        self.blocks = [
            [
                ResidualBlock(width, dilations, **shared)
                for width, dilations in zip(cfg.block_widths, cfg.block_dilations)
            ]
            for _ in cfg.upsample_rates
        ]
        self.last = NormedConv(cfg.n_fft + 2, 7, padding=3, **shared)

    def _source_down(self, stage: int) -> Conv:
        """Brings the source's spectrum to the rate after upsampling number `stage`."""
        cfg = self.config
        stride = math.prod(cfg.upsample_rates[stage + 1 :])
        width, pad = (1, 0) if stride == 1 else (2 * stride, stride // 2)
        return Conv(
            cfg.channels(stage), width, stride=stride, padding=(pad, pad), compute=cfg.compute
        )

    def __call__(
        self, mel: jax.Array, lengths: jax.Array | None = None, noise: jax.Array | None = None
    ) -> jax.Array:
        """Speaks a mel.

        Args:
          mel: [B, F, M] log-mel, natural log, 50 Hz; anything beyond `lengths`, NaN too.
          lengths: [B] int32 valid frames.
          noise: [B or 1, F * 480, num_harmonics + 1] standard normal; None means none.

        Returns:
          [B, F * 480] float32 in [-0.99, 0.99] at 24 kHz, zero beyond each row's end.
        """
        return self.speak(mel, lengths, noise)[0]

    def speak(
        self,
        mel: jax.Array,
        lengths: jax.Array | None = None,
        noise: jax.Array | None = None,
        cached_source: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `__call__`, and returns the source [B, N] too.

        Args:
          mel: [B, F, M].
          lengths: [B] valid frames.
          noise: see `__call__`.
          cached_source: [B, n] overwrites the first n source samples: the end of the chunk
            before, where this mel begins with frames of that chunk.
        """
        shapes.check(mel, f"B F {self.config.num_mels}", "mel")
        excitation = self.source(self.f0(mel, lengths), noise, lengths)
        if cached_source is not None:
            excitation = excitation.at[:, : cached_source.shape[1]].set(cached_source)
        return self.decode(mel, excitation, lengths), excitation

    def f0(self, mel: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, F, M] log-mel -> [B, F] Hz, zero beyond a row's end."""
        return self.f0_predictor(mel, _mask(lengths, mel.shape[1]))

    def source(
        self,
        f0: jax.Array,
        noise: jax.Array | None = None,
        lengths: jax.Array | None = None,
        start: source.Start | None = None,
    ) -> jax.Array:
        """[B, F] Hz -> [B, F * 480] excitation in (-1, 1), zero beyond a row's end.

        A call whose frames go on from earlier ones takes its phase from `start`.
        """
        cfg = self.config
        num_samples = f0.shape[1] * cfg.samples_per_frame
        mask = _mask(lengths, f0.shape[1])
        if noise is None:
            noise = jnp.zeros((1, num_samples, cfg.num_harmonics + 1), jnp.float32)
        waves = source.sine_waves(
            f0 if mask is None else jnp.where(mask[..., 0], f0, 0.0),
            noise,
            num_harmonics=cfg.num_harmonics,
            sample_rate_hz=cfg.sample_rate_hz,
            amplitude=cfg.sine_amplitude,
            noise_std=cfg.noise_std,
            voiced_threshold_hz=cfg.voiced_threshold_hz,
            start=start,
        )
        mixed = jnp.tanh(self.source_mix(jax.lax.stop_gradient(waves)))
        return keep(mixed, _mask(lengths, num_samples, cfg.samples_per_frame))[..., 0]

    def decode(
        self, mel: jax.Array, excitation: jax.Array, lengths: jax.Array | None = None
    ) -> jax.Array:
        """Filters the excitation [B, F * 480] by the mel [B, F, M] into a wav [B, F * 480]."""
        cfg = self.config
        num_samples = None if lengths is None else lengths * cfg.samples_per_frame
        spectrum = short_stft.transform(
            excitation, n_fft=cfg.n_fft, hop=cfg.hop, num_samples=num_samples
        )
        x = self.first(keep(mel, _mask(lengths, mel.shape[1])))
        for stage in range(len(cfg.upsample_rates)):
            x = self.upsample(x, stage, lengths)
            x = self.fuse(x, spectrum, stage, lengths)
        num_frames = self._spectrum_frames(lengths)
        x = nn.leaky_relu(x, cfg.last_slope)
        x = self.last(keep(x, _mask(num_frames, x.shape[1])))
        wav = short_stft.inverse(
            polar(x, cfg.max_magnitude), n_fft=cfg.n_fft, hop=cfg.hop, num_frames=num_frames
        )
        wav = jnp.clip(wav, -cfg.limit, cfg.limit)
        mask = _mask(lengths, wav.shape[1], cfg.samples_per_frame)
        return wav if mask is None else jnp.where(mask[..., 0], wav, 0.0)

    def upsample(self, x: jax.Array, stage: int, lengths: jax.Array | None = None) -> jax.Array:
        """Rectifies and upsamples: [B, T, D] -> [B, T * rate, D / 2]."""
        rate = math.prod(self.config.upsample_rates[:stage])
        x = nn.leaky_relu(x, self.config.slope)
        return self.upsamples[stage](keep(x, _mask(lengths, x.shape[1], rate)))

    def fuse(
        self, x: jax.Array, spectrum: jax.Array, stage: int, lengths: jax.Array | None = None
    ) -> jax.Array:
        """Adds the source's spectrum at this rate and averages the residual blocks."""
        cfg = self.config
        num_frames = self._spectrum_frames(lengths)
        if stage < len(cfg.upsample_rates) - 1:
            mask = _mask(lengths, x.shape[1], math.prod(cfg.upsample_rates[: stage + 1]))
        else:  # a centred spectrum has one frame more, so the first is mirrored
            x = jnp.concatenate([x[:, 1:2], x], axis=1)
            mask = _mask(num_frames, x.shape[1])
        spectrum = keep(spectrum, _mask(num_frames, spectrum.shape[1]))
        x = x + self.source_blocks[stage](self.source_downs[stage](spectrum), mask)
        first, *others = [block(x, mask) for block in self.blocks[stage]]
        return sum(others, first) / len(self.blocks[stage])

    def _spectrum_frames(self, lengths: jax.Array | None) -> jax.Array | None:
        if lengths is None:
            return None
        return lengths * (self.config.samples_per_frame // self.config.hop) + 1


def polar(x: jax.Array, max_magnitude: float) -> jax.Array:
    """Log-magnitudes and phases before their sine -> real and imaginary parts, stacked."""
    log_magnitude, x = jnp.split(x, 2, axis=-1)
    magnitude = jnp.minimum(jnp.exp(log_magnitude), max_magnitude)
    phase = jnp.sin(x)
    return jnp.concatenate([magnitude * jnp.cos(phase), magnitude * jnp.sin(phase)], axis=-1)


def _mask(lengths: jax.Array | None, num: int, rate: int = 1) -> jax.Array | None:
    """[B, num, 1] bool, True where index < lengths * rate."""
    if lengths is None:
        return None
    return (jnp.arange(num) < lengths[:, None] * rate)[..., None]


def init_params(config: HiFTConfig, key: jax.Array) -> Any:
    """Draws an unboxed parameter tree."""
    mel = jnp.zeros((1, 2, config.num_mels), jnp.float32)
    # Compiled, the forward pass that `init` makes is dead code and not run.
    return nn.meta.unbox(jax.jit(HiFT(config).init)(key, mel))["params"]


def fold_weight_norm(params: Any, config: HiFTConfig) -> tuple[Any, HiFTConfig]:
    """Computes every kernel once: parameters and config for inference, equal in what they say.

    On a CPU and in float32 the kernels are stored for convolution by tiles, which halves the
    products. Set `config.compute` before folding.
    """
    if config.kernels != "normed":
        return params, config
    tiled = config.compute == "float32" and product.on_cpu()
    folded = fold_kernels(params, tiled=tiled)
    folded |= {"f0_predictor": fold_kernels(params["f0_predictor"])}
    return folded, dataclasses.replace(config, kernels="tiled" if tiled else "plain")
