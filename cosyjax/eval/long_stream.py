"""Half an hour of speech from one stream: does it fall behind, grow, or wander off?

The same sentences come again and again, so that the parts of the stream can be compared: a drift is
a slope over the parts that the scatter between them does not explain.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cosyjax.eval.borders import pitch_hz
from cosyjax.infer.playback import Playback
from cosyjax.io import plots
from cosyjax.ops import mel
from cosyjax.shapes import SAMPLE_RATE_HZ

# Harvard sentences, list 1 (IEEE 1969).
SENTENCES = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It's easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "The hogs were fed chopped corn and garbage.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
)
PART_S = 60.0
PITCH_EVERY_S = 0.25
PITCH_WINDOW = SAMPLE_RATE_HZ // 25
DRIFTS = ("rtf", "level_db", "pitch_hz", "timbre_db", "memory_mb", "num_arrays")
Speak = Callable[[Iterable[str]], Iterator[np.ndarray]]


class Part(NamedTuple):
    """A minute, say, of the stream."""

    start_s: float  # of its audio
    rtf: float
    least_margin_ms: float  # of sound not yet played when the next chunk came
    level_db: float  # root mean square, of full scale
    pitch_hz: float  # median of the voiced; 0 without any
    timbre_db: float  # mean distance of its mean spectrum to that of the first part
    memory_mb: float  # resident memory of the process; 0 where the system does not tell
    num_arrays: int  # that JAX holds


class Drift(NamedTuple):
    """What a figure gains from the first part to the last, by its line of best fit."""

    change: float
    error: float  # standard error of the change


def listen(
    speak: Speak,
    seconds: float,
    *,
    part_s: float = PART_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Part]:
    """Yields the figures of each part of a stream as soon as it has been heard.

    Args:
      speak: gives the waveforms [N] of a text that comes sentence by sentence.
      seconds: of audio that are spoken; whole parts of it are measured.
      part_s: length of a part.
      clock: seconds; what measuring takes is not counted.
    """
    heard, spent, size = Playback(clock()), 0.0, int(part_s * SAMPLE_RATE_HZ)
    going_on = lambda _: heard.audio_s < seconds
    text = itertools.takewhile(going_on, itertools.cycle(f"{said} " for said in SENTENCES))
    waiting: list[np.ndarray] = []
    first: np.ndarray | None = None
    start_s, begun_s, least_s = 0.0, heard.started_s, float("inf")
    for wav in speak(text):
        now_s = clock() - spent
        heard.least_margin_s = float("inf")
        heard.hear(len(wav), now_s)
        least_s = min(least_s, heard.least_margin_s)
        waiting.append(wav)
        if sum(map(len, waiting)) < size:
            continue
        stopped_s, part = clock(), np.concatenate(waiting)[:size]
        spectrum = _mean_spectrum(part)
        first = spectrum if first is None else first
        yield Part(
            start_s=start_s,
            rtf=(now_s - begun_s) / (heard.audio_s - start_s),
            least_margin_ms=1e3 * least_s,
            level_db=float(10.0 * np.log10(np.mean(np.square(part, dtype=np.float64)) + 1e-12)),
            pitch_hz=_median_pitch(part),
            timbre_db=float(np.mean(np.abs(spectrum - first)) * 20.0 / np.log(10.0)),
            memory_mb=_memory_mb(),
            num_arrays=len(jax.live_arrays()),
        )
        waiting, least_s = [], float("inf")
        start_s, begun_s = heard.audio_s, now_s
        spent += clock() - stopped_s


def drifts(parts: list[Part]) -> dict[str, Drift]:
    """The drift of each figure over the stream.

    The first part is left out: it warms up, and the timbre's distance is measured from it.
    """
    if len(parts) < 4:
        return {}
    at = np.linspace(0.0, 1.0, len(parts) - 1)
    found = {}
    for name in DRIFTS:
        values = np.array([getattr(part, name) for part in parts[1:]], np.float64)
        slope, level = np.polyfit(at, values, 1)
        rest = values - slope * at - level
        spread = np.sum(rest**2) / max(len(at) - 2, 1) / np.sum((at - at.mean()) ** 2)
        found[name] = Drift(float(slope), float(np.sqrt(spread)))
    return found


def plot(parts: list[Part], path: Path) -> None:
    """Draws what could drift over the minutes of the stream."""
    shown = {
        "rtf": "real-time factor",
        "level_db": "level, dB",
        "pitch_hz": "pitch, Hz",
        "timbre_db": "timbre, dB",
        "memory_mb": "memory, MB",
    }
    figure, rows = plots.make_figure(len(shown), (7, 8), [1] * len(shown))
    minutes = [part.start_s / 60.0 for part in parts]
    for axes, (name, label) in zip(rows, shown.items(), strict=True):
        axes.plot(minutes, [getattr(part, name) for part in parts], marker=".")
        axes.set_ylabel(label)
    rows[-1].set_xlabel("minutes of speech")
    plots.save_figure(figure, path)


def _mean_spectrum(wav: np.ndarray) -> np.ndarray:
    """[80] mean log-mel."""
    return np.asarray(mel.mel_80(wav[None])[0]).mean(axis=0)


def _median_pitch(wav: np.ndarray) -> float:
    starts = range(0, len(wav) - PITCH_WINDOW, int(PITCH_EVERY_S * SAMPLE_RATE_HZ))
    found = [pitch_hz(wav[start : start + PITCH_WINDOW]) for start in starts]
    voiced = [one for one in found if one is not None]
    return float(np.median(voiced)) if voiced else 0.0


def _memory_mb() -> float:
    sizes = Path("/proc/self/statm")  # of Linux
    return (
        int(sizes.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        if sizes.is_file()
        else 0.0
    )
