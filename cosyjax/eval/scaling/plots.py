"""Pictures of a fit: profiles, best sizes over compute, and what the law leaves unexplained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.eval.bootstrap import COVERAGE
from cosyjax.eval.scaling.fit import Answer, Result
from cosyjax.io.plots import available, make_figure, save_figure

__all__ = ["available", "plot_fit"]
COLOURS = {"isoflop": "C0", "parametric": "C1"}
NAMES = {
    "non_embedding_params": "parameters without tables",
    "params": "parameters",
    "loss_per_speech_token": "nats per speech token",
    "loss_per_pair": "nats per pair",
}


def plot_fit(result: Result, path: Path, *, size: str, loss: str) -> None:
    """Draws loss over size per budget, best size and tokens over compute, and residuals.

    Args:
      result: of `fit_table`.
      path: of a png.
      size: column of N, for the label.
      loss: column of L.
    """
    count = 4 if "parametric" in result.answers else 3
    figure, axes = make_figure(count, (7, 3.2 * count), [3, 2, 2, 2][:count])
    _profiles(axes[0], result)
    axes[0].set(xscale="log", xlabel=NAMES[size], ylabel=NAMES[loss])
    for below, what in zip(axes[1:3], ("size", "tokens")):
        for name, answer in result.answers.items():
            _optima(below, name, answer, what)
        label = NAMES[size] if what == "size" else "tokens"
        below.set(xscale="log", yscale="log", xlabel="FLOPs", ylabel=f"best {label}")
        below.legend()
    if count == 4:
        _residuals(axes[3], result)
    save_figure(figure, path)


def _profiles(axes: Any, result: Result) -> None:
    """Runs as points, parabolas as lines, the law dashed."""
    points = result.points
    budget, sizes = np.asarray(points.budget), np.asarray(points.size)
    isoflop = result.answers.get("isoflop")
    law = result.answers.get("parametric")
    for index, flops in enumerate(points.budgets):
        own, colour = budget == flops, f"C{index % 10}"
        axes.plot(sizes[own], np.asarray(points.loss)[own], "o", color=colour, label=f"{flops:g}")
        grid = np.geomspace(sizes[own].min(), sizes[own].max(), 100)
        for profile in isoflop.model.profiles if isoflop else ():
            if profile.budget == flops:
                near = np.geomspace(profile.window[0], profile.window[1], 50)
                axes.plot(near, profile.loss_at(near), "-", color=colour, linewidth=1)
                axes.plot(profile.size, profile.loss, "x", color=colour)
        if law is not None:
            tokens = flops / (law.model.flops_per_nd * grid)
            values = law.model.loss(grid, tokens)
            axes.plot(grid, values, "--", color=colour, linewidth=1)
    top, bottom = max(points.loss), min(points.loss)
    axes.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))
    axes.legend(title="FLOPs; line: parabola, dashed: law")


def _optima(axes: Any, name: str, answer: Answer, what: str) -> None:
    """A line over the budgets that were asked for, and the band of the draws."""
    budgets = [optimum.budget for optimum in answer.optima]
    grid = np.geomspace(budgets[0], budgets[-1], 50)
    best = lambda model: [getattr(model, f"best_{what}")(flops) for flops in grid]
    axes.plot(grid, best(answer.model), color=COLOURS[name], label=name)
    if answer.optima[0].size.low is not None:
        edge = 100 * (1 - COVERAGE) / 2
        drawn = np.array([best(draw) for draw in answer.draws])
        low, high = np.percentile(drawn, (edge, 100 - edge), axis=0)
        axes.fill_between(grid, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
    if name == "isoflop":
        found = [(p.budget, getattr(p, what)) for p in answer.model.profiles]
        axes.plot(*zip(*found), "x", color=COLOURS[name])


def _residuals(axes: Any, result: Result) -> None:
    """Measured less predicted, per budget."""
    points, law = result.points, result.answers["parametric"].model
    sizes, budget = np.asarray(points.size), np.asarray(points.budget)
    left = np.asarray(points.loss) - law.loss(sizes, np.asarray(points.tokens))
    for flops in points.budgets:
        own = budget == flops
        order = np.argsort(sizes[own])
        axes.plot(sizes[own][order], left[own][order], "o-", label=f"{flops:g}", linewidth=1)
    axes.axhline(0.0, color="0.7", linewidth=1)
    axes.set(xscale="log", xlabel="parameters", ylabel="measured - law, nats")
