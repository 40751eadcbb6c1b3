"""What can be heard at the borders between chunks: jumps of level and pitch beyond the whole's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cosyjax.ops import mel
from cosyjax.shapes import SAMPLE_RATE_HZ

LEVEL_MS = 10  # on each side of a border
PITCH_MS = 40
LOWEST_HZ, HIGHEST_HZ = 65.0, 500.0
VOICED = 0.5  # least autocorrelation of a voiced sound
QUIET = 1e-3  # root mean square below which there is no sound to compare


def snr_db(got: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise of [N] against [N], over what both hold; at most 200."""
    size = min(len(got), len(wanted))
    got, wanted = np.asarray(got[:size], np.float64), np.asarray(wanted[:size], np.float64)
    noise = np.sum((got - wanted) ** 2)
    return float(min(10.0 * np.log10(max(np.sum(wanted**2), 1e-30) / max(noise, 1e-30)), 200.0))


def mel_distance_db(got: np.ndarray, wanted: np.ndarray) -> float:
    """Mean difference of two sounds [N] in dB over their mel bins and frames, blind to phase."""
    size = min(len(got), len(wanted))
    mine, whole = (np.asarray(mel.mel_80(np.asarray(x[:size])[None])) for x in (got, wanted))
    return float(np.mean(np.abs(mine - whole)) * 20.0 / np.log(10.0))


def jumps(got: np.ndarray, wanted: np.ndarray, edges: np.ndarray) -> dict[str, float]:
    """Mean jumps at `edges` (samples) beyond those of the whole at the same places.

    Returns:
      "level_jump_db": of the level of 10 ms before and after; "pitch_jump_cents": of F0 over 40 ms,
      where both sides are voiced in both; 0 where there is nothing to compare.
    """
    level = [_beyond(_level_jump, got, wanted, int(edge)) for edge in edges]
    pitch = [_beyond(_pitch_jump, got, wanted, int(edge)) for edge in edges]
    mean = lambda found: float(np.mean([x for x in found if x is not None] or [0.0]))
    return {"level_jump_db": mean(level), "pitch_jump_cents": mean(pitch)}


def _beyond(
    jump: Callable[[np.ndarray, int], float | None], got: np.ndarray, wanted: np.ndarray, edge: int
) -> float | None:
    mine, whole = jump(got, edge), jump(wanted, edge)
    return None if mine is None or whole is None else abs(mine - whole)


def _level_jump(wav: np.ndarray, edge: int) -> float | None:
    """dB from before `edge` to after it."""
    size = SAMPLE_RATE_HZ * LEVEL_MS // 1000
    before, after = (
        np.sqrt(np.mean(x**2)) for x in (wav[edge - size : edge], wav[edge : edge + size])
    )
    return None if min(before, after) < QUIET else float(20.0 * np.log10(after / before))


def _pitch_jump(wav: np.ndarray, edge: int) -> float | None:
    """Cents from before `edge` to after it."""
    size = SAMPLE_RATE_HZ * PITCH_MS // 1000
    before, after = pitch_hz(wav[edge - size : edge]), pitch_hz(wav[edge : edge + size])
    return None if before is None or after is None else float(1200.0 * np.log2(after / before))


def pitch_hz(wav: np.ndarray) -> float | None:
    """F0 of a short voiced sound by its normalised autocorrelation; None where it is unvoiced."""
    wav = np.asarray(wav, np.float64) - np.mean(wav)
    first, last = int(SAMPLE_RATE_HZ / HIGHEST_HZ), int(SAMPLE_RATE_HZ / LOWEST_HZ)
    last = min(last, len(wav) // 2)
    if np.sqrt(np.mean(wav**2)) < QUIET:
        return None
    size = len(wav) - last
    shares = []
    for lag in range(first, last):
        early, late = wav[:size], wav[lag : lag + size]
        shares.append(
            np.dot(early, late) / np.sqrt(np.dot(early, early) * np.dot(late, late) + 1e-12)
        )
    best = int(np.argmax(shares))
    return SAMPLE_RATE_HZ / (first + best) if shares[best] > VOICED else None
