"""Pictures: figures without global state, and spectrograms. Without matplotlib there are none."""

from __future__ import annotations

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


def plot_spectrogram(wav: np.ndarray, sample_rate_hz: int, path: Path) -> None:
    """Draws the magnitudes of a recording in dB.

    Args:
      wav: [N] float32.
      sample_rate_hz: its rate.
      path: of a png.
    """
    figure, (axes,) = make_figure(1, (8, 3), [1])
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
    save_figure(figure, path)


def make_figure(count: int, size: tuple[float, float], heights: list[int]) -> tuple[Any, Any]:
    """A figure without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1, squeeze=False, height_ratios=heights)
    return figure, tuple(axes[:, 0])


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as a png."""
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=100)
