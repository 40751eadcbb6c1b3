"""Confidence intervals by drawing utterances again, with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_DRAWS = 2000
COVERAGE = 0.95
_CELLS = 4_000_000  # drawn indices held at once


def rate_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int,
    *,
    num_draws: int = NUM_DRAWS,
) -> tuple[float, float] | None:
    """Interval of sum(numerators) / sum(denominators), drawn over utterances.

    The words of one utterance are heard well or badly together, so a draw takes whole utterances.

    Args:
      numerators: edits of each utterance.
      denominators: units of each reference.
      seed: of the draws.
      num_draws: how many samples of the same size are drawn.

    Returns:
      The 2.5 % and 97.5 % percentiles; None for fewer than two utterances or no units.
    """
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    if len(top) < 2 or bottom.sum() <= 0:
        return None
    stream = np.random.default_rng(seed)
    rates: list[np.ndarray] = []
    step = max(1, _CELLS // len(top))
    for first in range(0, num_draws, step):
        drawn = stream.integers(0, len(top), (min(step, num_draws - first), len(top)))
        total = bottom[drawn].sum(axis=1)
        rates.append(top[drawn].sum(axis=1) / np.maximum(total, 1e-12))
    edge = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(np.concatenate(rates), (edge, 100 - edge))
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """Interval of the mean over utterances; see `rate_interval`."""
    return rate_interval(values, np.ones(len(values)).tolist(), seed)
