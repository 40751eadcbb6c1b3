"""Pictures of a run: loss curves, and spectrograms of what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cosyjax.io.plots import available, make_figure, plot_spectrogram, save_figure

__all__ = ["available", "plot_curves", "plot_runs", "plot_spectrogram"]


def plot_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws training and held-out loss over steps, and the learning rate below.

    Args:
      rows: lines of metrics.jsonl.
      path: of a png.
    """
    figure, (above, below) = make_figure(2, (7, 5), [3, 1])
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
    save_figure(figure, path)


def plot_runs(
    runs: Mapping[str, Sequence[Mapping[str, float]]], metrics: Sequence[str], path: Path
) -> None:
    """Draws each metric of several runs over steps, one plot below the other.

    Args:
      runs: {name: lines of metrics.jsonl}; a run without a metric is left out of its plot.
      metrics: names in those lines.
      path: of a png.
    """
    figure, axes = make_figure(len(metrics), (7, 1 + 2.5 * len(metrics)), [1] * len(metrics))
    for metric, below in zip(metrics, axes):
        for name, rows in runs.items():
            points = [(row["step"], row[metric]) for row in rows if metric in row]
            if points:
                below.plot(
                    *zip(*points), "o-" if len(points) < 50 else "-", label=name, markersize=3
                )
        below.set_ylabel(metric)
        below.legend()
    axes[-1].set_xlabel("step")
    save_figure(figure, path)
