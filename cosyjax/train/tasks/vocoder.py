"""Training the vocoder: a turn of the discriminators, then a turn of the generator.

The official recipe of CosyVoice 2: both turns in every step, crops of about a second, the pitch
learnt beside the sound. The losses are those of `losses.gan`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.losses import gan
from cosyjax.models.discriminators import (
    Discriminators,
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.vocoder import make_vocoder
from cosyjax.ops import mel as mel_ops
from cosyjax.ops import source as source_ops
from cosyjax.train.init import read_module
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
SOURCES = ("predicted", "recorded")
NUM_SAMPLES = 2  # rows spoken at an evaluation


@dataclasses.dataclass(frozen=True)
class VocoderTask:
    """A vocoder, causal or not, against multi-period and multi-resolution discriminators.

    A batch holds `wav` [B, N] at 24 kHz, N in whole frames, and `f0` [B, N / 480] in Hz, 0 where
    unvoiced. A row whose samples are all zero is padding: an evaluation leaves it out.
    """

    model: HiFTConfig = HiFTConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    losses: gan.GanLossConfig = gan.GanLossConfig()
    source: str = "predicted"  # pitch of the sine source in training; or that of the recording
    adversarial: bool = True  # False: log-mel and pitch alone, a third of the time a step
    pitch_only: bool = False  # without judges: nothing but the pitch, a hundredth of the time
    initial_f0_hz: float = 0.0  # scale of the first predictions; 0 leaves the official start

    def __post_init__(self) -> None:
        mel = mel_ops.MATCHA_80
        ours = (self.model.num_mels, self.model.samples_per_frame, self.model.sample_rate_hz)
        if ours != (mel.num_mels, mel.hop_samples, mel.sample_rate_hz):
            raise InputError(
                f"model with (bins, samples per frame, Hz) {ours}: the features have "
                f"{mel.num_mels}, {mel.hop_samples}, {mel.sample_rate_hz}"
            )
        if self.model.kernels != "normed":
            raise InputError(f"model.kernels={self.model.kernels!r}: training needs 'normed'")
        if self.source not in SOURCES:
            raise InputError(f"source={self.source!r}; allowed: {', '.join(SOURCES)}")
        if self.pitch_only and self.adversarial:
            raise InputError("pitch_only=True has no use for judges: set adversarial=False")
        if self.initial_f0_hz < 0:
            raise InputError(f"initial_f0_hz={self.initial_f0_hz} must be at least 0")

    def init(self, key: jax.Array) -> Params:
        """Draws the generator and, where it has them, its discriminators."""
        keys = jax.random.split(key)
        mel = jnp.zeros((1, 2, self.model.num_mels), jnp.float32)
        wav = jnp.zeros((1, self.discriminators.min_samples()), jnp.float32)
        generator = jax.jit(make_vocoder(self.model).init)(keys[0], mel)["params"]
        if self.initial_f0_hz:
            # From zero, an optimizer needs thousands of steps to reach hundreds of Hz.
            kernel = generator["f0_predictor"]["output"]["kernel"]
            scaled = kernel.replace_boxed(self.initial_f0_hz * kernel.unbox())
            generator["f0_predictor"]["output"]["kernel"] = scaled
        if not self.adversarial:
            return {GENERATOR: generator}
        judges = jax.jit(Discriminators(self.discriminators).init)(keys[1], wav)["params"]
        return {GENERATOR: generator, DISCRIMINATOR: judges}

    def load(self, path: str) -> Params:
        """The generator of a bundle; the discriminators stay as drawn."""
        return {GENERATOR: read_module(path, "vocoder", self.model)}

    def turns(self) -> tuple[Turn, ...]:
        """The discriminators first, as in the official code."""
        generator = Turn(GENERATOR, self.generator_loss)
        if not self.adversarial:
            return (generator,)
        return Turn(DISCRIMINATOR, self.discriminator_loss), generator

    def discriminator_loss(
        self, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Recordings towards 1, generated speech towards 0."""
        wav, f0 = batch["wav"], batch["f0"]
        generated, _ = self.speak(params, wav, key, f0)
        return gan.discriminator_turn(self._judge(params), wav, generated, self.losses)

    def generator_loss(
        self, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """To be taken for a recording, to sound like this one, and to predict its pitch."""
        wav, f0 = batch["wav"], batch["f0"]
        if self.pitch_only:
            found = gan.f0_loss(f0, self._generator(params)(mel_ops.mel_80(wav), method="f0"))
            return self.losses.f0_weight * found, {"loss_f0": found}
        generated = self.speak(params, wav, key, f0)
        if not self.adversarial:
            return gan.reconstruction((wav, f0), generated, self.losses)
        return gan.generator_turn(self._judge(params), (wav, f0), generated, self.losses)

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Distance to the recordings, spoken from mels alone.

        Returns:
          "loss": L1 between log-mels of the whole band; "f0_error": mean L1 in Hz where the
          recording is voiced; "voicing_error": part of the frames that are wrongly voiced or
          wrongly not; "num_frames" that count.
        """
        wav, f0 = batch["wav"], batch["f0"]
        rows = jnp.any(wav != 0.0, axis=1)
        generated, found = self.speak(params, wav, key)
        distance = jax.vmap(lambda a, b: gan.mel_loss(a[None], b[None], self.losses.mels))
        mean = lambda x, mask: jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
        threshold = self.model.voiced_threshold_hz
        voiced, frames = f0 > threshold, jnp.broadcast_to(rows[:, None], f0.shape)
        return {
            "loss": mean(distance(wav, generated), rows),
            "f0_error": mean(jnp.abs(found - f0), voiced & frames),
            "voicing_error": mean(1.0 * (voiced != (found > threshold)), frames),
            "num_frames": jnp.sum(frames),
        }

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing is counted."""
        return {}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Four passes of the generator, nine of the discriminators.

        The generator runs in both turns and backward (twice a pass) in its own. The
        discriminators hear two waveforms in both turns, run backward by both and twice in theirs,
        and by one and once in the other's.
        """
        rows, samples = batch["wav"]
        frames = samples // self.model.samples_per_frame
        flops = 3.0 * _generator_flops(self.model, frames)
        if self.adversarial:
            flops = flops / 3.0 * 4.0 + 9.0 * _judge_flops(self.discriminators, samples)
        return Cost(
            flops=rows * flops,
            tokens=float(rows * frames),
            audio_s=rows * samples / self.model.sample_rate_hz,
        )

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """The first recordings of the batch, and what is made of their mels."""
        wav = batch["wav"][:NUM_SAMPLES]
        generated = _resynthesize(self, params, wav, key)
        rate, pairs = self.model.sample_rate_hz, zip(np.asarray(wav), np.asarray(generated))
        found = []
        for index, (recording, spoken) in enumerate(pairs):
            found.append(Sample(f"recording_{index}", recording, rate))
            found.append(Sample(f"resynthesis_{index}", spoken, rate))
        return found

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """The generator alone."""
        return {"vocoder": self.model}, {"vocoder": params[GENERATOR]}

    def speak(
        self, params: Params, wav: jax.Array, key: jax.Array, f0: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Takes waveforms to mels and back.

        Args:
          params: both groups.
          wav: [B, N].
          key: of the source's noise, another for each row.
          f0: [B, F] of the recording, used where `source` says so.

        Returns:
          wav [B, N] and the predicted f0 [B, F].
        """
        cfg, mel, apply = self.model, mel_ops.mel_80(wav), self._generator(params)
        predicted = apply(mel, method="f0")
        recorded = self.source == "recorded" and f0 is not None
        noise = source_ops.frame_noise(
            jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(wav.shape[0])),
            mel.shape[1],
            samples_per_frame=cfg.samples_per_frame,
            channels=cfg.noise_channels,
        )
        excitation = apply(f0 if recorded else predicted, noise, method="source")
        return apply(mel, excitation, method="decode"), predicted

    def _generator(self, params: Params) -> Any:
        return functools.partial(make_vocoder(self.model).apply, {"params": params[GENERATOR]})

    def _judge(self, params: Params) -> gan.Judge:
        model, own = Discriminators(self.discriminators), params[DISCRIMINATOR]
        return lambda wav: model.apply({"params": own}, wav)  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=0)
def _resynthesize(task: VocoderTask, params: Params, wav: jax.Array, key: jax.Array) -> jax.Array:
    return task.speak(params, wav, key)[0]


def _generator_flops(config: HiFTConfig, num_frames: int) -> float:
    """Two operations per tap of a convolution: positions x taps x channels in x channels out."""
    bins, width = config.n_fft + 2, config.f0_channels
    first, seen = (config.lookahead + 3, config.lookahead + 3) if config.causal else (3, 7)
    taps = width * (first * config.num_mels + 3 * (config.f0_layers - 1) * width)
    taps += seen * config.num_mels * config.base_channels
    total, rate = float(num_frames * taps), 1
    block_taps = lambda k, dilations, c: 2 * k * len(dilations) * c * c
    for stage, (up, up_width) in enumerate(zip(config.upsample_rates, config.upsample_widths)):
        channels = config.channels(stage)
        if config.causal:  # computed at the lower rate, see `RepeatConv`
            up_width = up * (1 - (1 - up_width) // up)
        total += num_frames * rate * up_width * 2 * channels * channels
        rate *= up
        stride = math.prod(config.upsample_rates[stage + 1 :])
        taps = (1 if stride == 1 else 2 * stride) * bins * channels
        blocks = [*zip(config.block_widths, config.block_dilations)]
        blocks.append((config.source_block_widths[stage], config.source_block_dilations[stage]))
        taps += sum(block_taps(k, dilations, channels) for k, dilations in blocks)
        total += num_frames * rate * taps
    total += num_frames * rate * 7 * config.channels(len(config.upsample_rates) - 1) * bins
    return 2.0 * total


def _judge_flops(config: DiscriminatorsConfig, num_samples: int) -> float:
    """Two operations per tap, of one waveform through every branch."""
    periods = len(config.multi_period.periods) * _period_taps(config.multi_period, num_samples)
    sizes = config.multi_resolution.resolutions
    pictures = [_picture_taps(config.multi_resolution, num_samples, *s[:2]) for s in sizes]
    return 2.0 * (periods + sum(pictures))


def _period_taps(config: MultiPeriodConfig, num_samples: int) -> float:
    """Folding keeps the number of samples, so each period costs the same."""
    total, positions, inputs = 0.0, float(num_samples), 1
    for i, channels in enumerate(config.channels):
        positions /= config.stride if i + 1 < len(config.channels) else 1
        total += positions * config.width * inputs * channels
        inputs = channels
    return total + positions * config.out_width * inputs


def _picture_taps(
    config: MultiResolutionConfig, num_samples: int, fft_size: int, hop: int
) -> float:
    frames, bins, width = num_samples // hop + 1, fft_size // 2 + 1, config.channels
    area, out_area = math.prod(config.kernel), math.prod(config.out_kernel)
    total = frames * bins * area * width
    for _ in range(config.num_strided):
        bins = (bins + 1) // 2
        total += frames * bins * area * width * width
    return float(total + frames * bins * out_area * width * (width + 1))
