"""Pictures of a run: loss curves and spectrograms. Without matplotlib there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.io.atomic import atomic_file

FRAME_SAMPLES = 1024


def available() -> bool:
    """True where matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws training and held-out loss over steps, and the learning rate below.

    Args:
      rows: lines of metrics.jsonl.
      path: of a png.
    """
    figure, (above, below) = _figure(2, (7, 5), [3, 1])
    for name, style, label in (("loss", "-", "training"), ("heldout_loss", "o-", "held-out")):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            above.plot(*zip(*points), style, label=label, linewidth=1, markersize=4)
    above.set_ylabel("loss")
    above.legend()
    rates = [name for name in (rows[-1] if rows else {}) if name.split("/")[-1] == "lr"]
    for name in rates:
        points = [(row["step"], row[name]) for row in rows if name in row]
        below.plot(*zip(*points), label=name, linewidth=1)
    below.set_xlabel("step")
    below.set_ylabel("learning rate")
    _save(figure, path)


def plot_spectrogram(wav: np.ndarray, sample_rate_hz: int, path: Path) -> None:
    """Draws the magnitudes of a recording in dB.

    Args:
      wav: [N] float32.
      sample_rate_hz: its rate.
      path: of a png.
    """
    figure, (axes,) = _figure(1, (8, 3), [1])
    hop = FRAME_SAMPLES // 4
    padded = np.pad(wav, (FRAME_SAMPLES // 2, FRAME_SAMPLES))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES)[::hop]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES), axis=1)).T
    level_db = 20.0 * np.log10(np.maximum(spectrum, 1e-5))
    seconds = len(wav) / sample_rate_hz
    extent = (0.0, seconds, 0.0, sample_rate_hz / 2000.0)
    top = float(level_db.max())
    axes.imshow(level_db, origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top)
    axes.set_xlabel("s")
    axes.set_ylabel("kHz")
    _save(figure, path)


def _figure(count: int, size: tuple[float, float], heights: list[int]) -> tuple[Any, Any]:
    """A figure without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1, squeeze=False, height_ratios=heights)
    return figure, tuple(axes[:, 0])


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=100)
