"""Adversarial losses of the vocoder: a turn of the discriminators, a turn of the generator.

Least squares GAN and feature matching (HiFi-GAN, arXiv:2010.05646 Eqs. 1 to 4), an L1 on log-mels,
a truncated pointwise relativistic term and an L1 on the pitch. Everything is float32. Terms over
branches are sums, as in the official code, not means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cosyjax.errors import InputError
from cosyjax.models.discriminators import Judgement
from cosyjax.ops import mel as mel_ops

Judge = Callable[[jax.Array], Sequence[Judgement]]  # wav [B, N] -> a judgement per branch
Metrics = dict[str, jax.Array]

# The loss hears up to half the sample rate, unlike the features (8 kHz).
FULL_BAND_MEL = dataclasses.replace(mel_ops.MATCHA_80, fmax_hz=None)


@dataclasses.dataclass(frozen=True)
class GanLossConfig:
    """Weights of the terms."""

    feature_weight: float = 2.0  # of feature matching, which is itself twice the sum of L1s
    mel_weight: float = 45.0  # of the log-mel L1
    relative_weight: float = 1.0  # of the relativistic term; 0 leaves it out
    relative_limit: float = 0.04  # the term of one branch grows no further than this
    f0_weight: float = 1.0  # of the pitch L1 in Hz
    mels: tuple[mel_ops.MelConfig, ...] = (FULL_BAND_MEL,)  # spectrograms of the log-mel L1

    def __post_init__(self) -> None:
        weights = (self.feature_weight, self.mel_weight, self.relative_weight, self.f0_weight)
        if min(weights) < 0 or self.relative_limit <= 0:
            raise InputError(f"{self}: weights must be at least 0 and relative_limit above 0")


def discriminator_turn(
    judge: Judge, wav: jax.Array, generated_wav: jax.Array, config: GanLossConfig
) -> tuple[jax.Array, Metrics]:
    """Loss of the discriminators: real speech towards 1, generated speech towards 0.

    Args:
      judge: the discriminators with their parameters.
      wav: [B, N] real speech at 24 kHz.
      generated_wav: [B, N]; its gradient is cut.
      config: weights.

    Returns:
      the loss and its terms, before weighting.
    """
    real, generated = judge_both(judge, wav, jax.lax.stop_gradient(generated_wav))
    real_scores, scores = [r.score for r in real], [g.score for g in generated]
    metrics = {"loss_adversarial": discriminator_loss(real_scores, scores)}
    loss = metrics["loss_adversarial"]
    if config.relative_weight:
        relative = relativistic_loss(real_scores, scores, config.relative_limit)
        metrics["loss_relative"] = relative
        loss = loss + config.relative_weight * relative
    return loss, metrics


def generator_turn(
    judge: Judge,
    real: tuple[jax.Array, jax.Array],
    generated: tuple[jax.Array, jax.Array],
    config: GanLossConfig,
    f0_mask: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """Loss of the generator: to be taken for real, and to sound like the recording.

    Args:
      judge: the discriminators with their parameters, which this turn does not train.
      real: (wav [B, N] at 24 kHz, f0 [B, F] in Hz) of the recording.
      generated: (wav [B, N], f0 [B, F]) of the generator.
      config: weights.
      f0_mask: [B, F] bool, True where the pitch counts; None means everywhere.

    Returns:
      the loss and its terms, before weighting.
    """
    loss, metrics = reconstruction(real, generated, config, f0_mask)
    judged, critique = judge_both(judge, real[0], generated[0])
    metrics |= {
        "loss_adversarial": generator_loss([g.score for g in critique]),
        "loss_feature": feature_loss([r.features for r in judged], [g.features for g in critique]),
    }
    loss = loss + metrics["loss_adversarial"] + config.feature_weight * metrics["loss_feature"]
    if config.relative_weight:
        scores = [g.score for g in critique], [r.score for r in judged]
        metrics["loss_relative"] = relativistic_loss(*scores, config.relative_limit)
        loss = loss + config.relative_weight * metrics["loss_relative"]
    return loss, metrics


def reconstruction(
    real: tuple[jax.Array, jax.Array],
    generated: tuple[jax.Array, jax.Array],
    config: GanLossConfig,
    f0_mask: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """The part of `generator_turn` that needs no discriminators: log-mel and pitch."""
    (wav, f0), (generated_wav, generated_f0) = real, generated
    metrics = {
        "loss_mel": mel_loss(wav, generated_wav, config.mels),
        "loss_f0": f0_loss(f0, generated_f0, f0_mask),
    }
    loss = config.mel_weight * metrics["loss_mel"] + config.f0_weight * metrics["loss_f0"]
    return loss, metrics


def judge_both(
    judge: Judge, wav: jax.Array, generated_wav: jax.Array
) -> tuple[list[Judgement], list[Judgement]]:
    """Judges real and generated speech in one batch: rows do not talk, so nothing changes.

    A recording and its copy lie beside each other, on the chip that has the recording: where a
    batch is cut over chips, one after the other would send half of every activation around.
    """
    if wav.shape != generated_wav.shape:
        raise InputError(f"wav {wav.shape} and generated_wav {generated_wav.shape} must agree")
    rows, samples = wav.shape
    both = judge(jnp.stack([wav, generated_wav], axis=1).reshape(2 * rows, samples))
    both = jax.tree.map(lambda x: x.reshape(rows, 2, *x.shape[1:]), both)
    return jax.tree.map(lambda x: x[:, 0], both), jax.tree.map(lambda x: x[:, 1], both)


def generator_loss(scores: Sequence[jax.Array]) -> jax.Array:
    """Sum over branches of the mean squared distance of generated scores from 1."""
    return _total([jnp.mean(jnp.square(1.0 - score)) for score in scores])


def discriminator_loss(
    real_scores: Sequence[jax.Array], generated_scores: Sequence[jax.Array]
) -> jax.Array:
    """Sum over branches: real scores from 1 plus generated scores from 0, mean squares."""
    terms = [
        jnp.mean(jnp.square(1.0 - real)) + jnp.mean(jnp.square(generated))
        for real, generated in zip(real_scores, generated_scores, strict=True)
    ]
    return _total(terms)


def feature_loss(
    real: Sequence[Sequence[jax.Array]], generated: Sequence[Sequence[jax.Array]]
) -> jax.Array:
    """Twice the sum, over branches and convolutions, of the mean L1 between features."""
    terms = [
        jnp.mean(jnp.abs(x - y))
        for branch in zip(real, generated, strict=True)
        for x, y in zip(*branch, strict=True)
    ]
    return 2.0 * _total(terms)


def relativistic_loss(
    better: Sequence[jax.Array], worse: Sequence[jax.Array], limit: float
) -> jax.Array:
    """Truncated pointwise relativistic loss, summed over branches.

    The gap between two scores is held against the median gap; what falls below it costs its
    squared shortfall, up to `limit`. The discriminators' turn passes (real, generated) scores, the
    generator's turn (generated, real).

    Args:
      better: per branch, scores that ought to be the higher ones.
      worse: per branch, scores of the same shape.
      limit: largest cost of a branch.

    Returns:
      scalar. Differs: where every gap is the same the official code gives NaN, and here 0.
    """
    terms = [_relativistic(x, y, limit) for x, y in zip(better, worse, strict=True)]
    return _total(terms)


def _relativistic(better: jax.Array, worse: jax.Array, limit: float) -> jax.Array:
    gap = better - worse
    median = lower_median(gap)
    # Compared in this form, not gap < median: rounding decides whether the median itself counts.
    below = better < worse + median
    shortfall = jnp.sum(jnp.where(below, jnp.square(gap - median), 0.0))
    mean = shortfall / jnp.maximum(jnp.sum(below), 1)
    return limit - jax.nn.relu(limit - mean)


def lower_median(x: jax.Array) -> jax.Array:
    """The middle of all values; of an even number, the lower of the two in the middle."""
    return jnp.sort(x, axis=None)[(x.size - 1) // 2]


def mel_loss(
    wav: jax.Array, generated_wav: jax.Array, mels: Sequence[mel_ops.MelConfig] = (FULL_BAND_MEL,)
) -> jax.Array:
    """Sum over spectrograms of the mean L1 between log-mels of two waveforms [B, N]."""
    terms = []
    for mel in mels:
        real, generated = (mel_ops.log_mel(x, config=mel) for x in (wav, generated_wav))
        terms.append(jnp.mean(jnp.abs(generated - real)))
    return _total(terms)


def f0_loss(f0: jax.Array, generated_f0: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean L1 in Hz between two pitch tracks [B, F], over the frames where `mask` is True."""
    if mask is None:
        return jnp.mean(jnp.abs(generated_f0 - f0))
    difference = jnp.where(mask, generated_f0 - f0, 0.0)
    return jnp.sum(jnp.abs(difference)) / jnp.maximum(jnp.sum(mask), 1)


def _total(terms: Sequence[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(terms)) if terms else jnp.float32(0.0)
