"""Both fits of a table, with intervals from drawing its runs again with replacement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from cosyjax.errors import InputError, nearest
from cosyjax.eval.bootstrap import COVERAGE
from cosyjax.eval.scaling.isoflop import IsoFlop, fit_isoflop
from cosyjax.eval.scaling.parametric import fit_law
from cosyjax.eval.scaling.table import Points

APPROACHES = ("isoflop", "parametric")
MIN_SHARE = 0.5  # of the draws must give a fit: what is left of fewer is not a sample of them
DEEPEST = 512  # layers of the largest member that is named


class Model(Protocol):
    """What both approaches find."""

    numbers: dict[str, float]

    def best_size(self, flops: float) -> float:
        """N* of a budget."""

    def best_tokens(self, flops: float) -> float:
        """D* of a budget."""

    def best_loss(self, flops: float) -> float | None:
        """Nats there, where they are known."""


class Estimate(NamedTuple):
    """A figure and its interval of 95 %, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best use of a budget."""

    budget: float  # floating-point operations
    size: Estimate  # parameters
    tokens: Estimate  # positions
    loss: float | None  # nats
    depth: int | None  # of the family's nearest member


@dataclasses.dataclass(frozen=True)
class Answer:
    """One approach."""

    model: Any  # IsoFlop or Law
    numbers: dict[str, Estimate]
    optima: tuple[Optimum, ...]
    draws: tuple[Any, ...]  # the models of the draws that gave one


@dataclasses.dataclass(frozen=True)
class Result:
    """What a table says."""

    points: Points
    answers: dict[str, Answer]  # by approach
    refused: dict[str, str]  # why an approach has none
    num_draws: int
    seed: int


def fit_table(
    points: Points,
    *,
    approaches: Sequence[str] = APPROACHES,
    budgets: Sequence[float] = (),
    num_draws: int = 1000,
    seed: int = 0,
) -> Result:
    """Fits a table.

    Args:
      points: the runs.
      approaches: of APPROACHES.
      budgets: floating-point operations whose best use is asked for, beside those of the table.
      num_draws: of runs, within each budget, for the intervals; 0 for none.
      seed: of the draws.

    Raises:
      InputError: an unknown approach, a budget or a number of draws that makes no sense, or a
        table that none of the approaches can use.
    """
    _check(approaches, budgets, num_draws, seed)
    answers, refused = {}, {}
    for approach in approaches:
        try:
            answers[approach] = _answer(approach, points, budgets, num_draws, seed)
        except InputError as error:
            refused[approach] = str(error)
    if not answers:
        raise InputError(". ".join(refused.values()))
    return Result(points, answers, refused, num_draws, seed)


def _check(approaches: Sequence[str], budgets: Sequence[float], num_draws: int, seed: int) -> None:
    for approach in approaches:
        if approach not in APPROACHES:
            raise InputError(f"no approach {approach!r}; {nearest(approach, APPROACHES)}")
    for budget in budgets:
        if not (math.isfinite(budget) and budget > 0):
            raise InputError(f"budget {budget:g}: FLOPs above 0 are needed")
    if num_draws < 0 or seed < 0:
        raise InputError(f"{num_draws} draws from seed {seed}: both are 0 or more")


def _answer(
    approach: str, points: Points, budgets: Sequence[float], num_draws: int, seed: int
) -> Answer:
    model: Any
    again: Callable[[Points], Any]
    if approach == "isoflop":
        model = fit_isoflop(points)
        again = lambda drawn: fit_isoflop(drawn, bracketed=False)
    else:
        model = fit_law(points)
        again = lambda drawn: fit_law(drawn, model)
    draws = tuple(_draw(_used(points, model), again, num_draws, seed))
    shown = draws if len(draws) >= max(2.0, MIN_SHARE * num_draws) else ()
    read = lambda name: _estimate(model, shown, lambda found: found.numbers[name])
    numbers = {name: read(name) for name in model.numbers}
    asked = sorted({*points.budgets, *budgets})
    optima = tuple(_optimum(points, model, shown, budget) for budget in asked)
    return Answer(model, numbers, optima, draws)


def _used(points: Points, model: Any) -> Points:
    """The runs that a model was fitted to: of isoFLOP profiles those around the lowest points."""
    if not isinstance(model, IsoFlop):
        return points
    windows = {p.budget: p.window for p in model.profiles}
    inside = lambda n, c: c in windows and windows[c][0] <= n <= windows[c][1]
    return points.take([i for i, x in enumerate(zip(points.size, points.budget)) if inside(*x)])


def _draw(points: Points, again: Callable[[Points], Any], num_draws: int, seed: int) -> list[Any]:
    """Fits draws; those that lack what a fit needs are left out."""
    stream, found = np.random.default_rng(seed), []
    budget = np.asarray(points.budget)
    groups = [np.flatnonzero(budget == c) for c in points.budgets]  # every budget keeps its share
    for _ in range(num_draws):
        chosen = np.concatenate([stream.choice(group, len(group)) for group in groups])
        try:
            found.append(again(points.take(chosen.tolist())))
        except InputError:
            continue
    return found


def _estimate(model: Any, draws: Sequence[Any], read: Callable[[Any], float]) -> Estimate:
    if not draws:
        return Estimate(read(model))
    edge = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile([read(draw) for draw in draws], (edge, 100 - edge))
    return Estimate(read(model), float(low), float(high))


def _optimum(points: Points, model: Any, draws: Sequence[Any], budget: float) -> Optimum:
    size = _estimate(model, draws, lambda m: m.best_size(budget))
    return Optimum(
        budget=budget,
        size=size,
        tokens=_estimate(model, draws, lambda m: m.best_tokens(budget)),
        loss=model.best_loss(budget),
        depth=nearest_depth(points, size.value),
    )


def nearest_depth(points: Points, size: float) -> int | None:
    """The member of the family whose size is nearest, in ratio; None where depths are not known.

    Sizes between and beyond those of the table follow N = p d^3 + q d^2 + r d through them: blocks
    grow with the cube of the depth where the width grows with it, tables and head with the first
    power.
    """
    known = dict(zip(points.depth, points.size))
    if len(known) < 3:
        return None
    depths = np.array(sorted(known), float)
    sizes = np.array([known[int(d)] for d in depths])
    powers = lambda d: np.stack([d**3, d**2, d], axis=1)
    # Relative errors, or the largest member alone would decide.
    factors, *_ = np.linalg.lstsq(powers(depths) / sizes[:, None], np.ones_like(sizes), rcond=None)
    members = np.arange(1.0, DEEPEST + 1)
    guess = np.maximum(powers(members) @ factors, 1e-9)
    guess[depths.astype(int) - 1] = sizes
    return int(members[np.argmin(np.abs(np.log(guess / size)))])
