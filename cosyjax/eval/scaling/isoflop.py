"""IsoFLOP profiles: the best size of each budget, and how it grows (arXiv 2203.15556, 3.2)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.scaling.table import Points

MIN_SIZES, MIN_BUDGETS = 3, 2
# A parabola holds near its lowest point only: with nine sizes over a factor of 300, one through all
# of them moves the exponent by 3 to 10 %, one through five by 0.3 %.
WINDOW = 5


@dataclasses.dataclass(frozen=True)
class Profile:
    """The parabola of a budget: L = loss + curvature (log N - log size)^2."""

    budget: float  # floating-point operations
    size: float  # N*, its lowest point
    tokens: float  # D* there
    loss: float  # nats there
    curvature: float  # nats per squared natural logarithm; above 0
    window: tuple[float, float]  # smallest and largest size that it was fitted to

    def loss_at(self, size: np.ndarray) -> np.ndarray:
        """Nats at other sizes."""
        return self.loss + self.curvature * np.log(size / self.size) ** 2


class Power(NamedTuple):
    """y = scale C^exponent."""

    scale: float
    exponent: float

    def at(self, flops: float) -> float:
        """y of a budget."""
        return self.scale * flops**self.exponent


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """What the profiles say."""

    profiles: tuple[Profile, ...]  # smallest budget first
    refused: tuple[str, ...]  # why a budget has none
    size: Power  # N* of C
    tokens: Power  # D* of C

    @property
    def numbers(self) -> dict[str, float]:
        """What stands on its own."""
        return {"size_exponent": self.size.exponent, "token_exponent": self.tokens.exponent}

    def best_size(self, flops: float) -> float:
        """N* of a budget."""
        return self.size.at(flops)

    def best_tokens(self, flops: float) -> float:
        """D* of a budget."""
        return self.tokens.at(flops)

    def best_loss(self, flops: float) -> float | None:
        """Nats at the lowest point; None for a budget that was not run."""
        return next((p.loss for p in self.profiles if p.budget == flops), None)


def fit_isoflop(points: Points, *, bracketed: bool = True) -> IsoFlop:
    """Fits a parabola in log N to each budget, and power laws through their lowest points.

    Args:
      points: the runs.
      bracketed: refuse a budget whose best run is its smallest or largest one. A draw of a table
        that has passed this lacks some runs and need not pass it again.

    Raises:
      InputError: fewer than MIN_BUDGETS budgets whose lowest loss lies between their sizes; the
        message says of each other one what it lacks.
    """
    profiles, refused = [], []
    for budget in points.budgets:
        own = points.take([i for i, c in enumerate(points.budget) if c == budget])
        try:
            profiles.append(fit_profile(own, bracketed=bracketed))
        except InputError as error:
            refused.append(str(error))
    if len(profiles) < MIN_BUDGETS:
        raise InputError(
            f"the isoFLOP fit needs {MIN_BUDGETS} budgets whose lowest loss lies between their "
            f"sizes; the table has {len(profiles)} of {len(points.budgets)}. "
            + "; ".join(refused or ["add runs of another budget"])
        )
    return IsoFlop(
        tuple(profiles),
        tuple(refused),
        size=_power([p.budget for p in profiles], [p.size for p in profiles]),
        tokens=_power([p.budget for p in profiles], [p.tokens for p in profiles]),
    )


def fit_profile(points: Points, *, bracketed: bool = True) -> Profile:
    """Fits the parabola of one budget to the WINDOW sizes around its best run.

    Raises:
      InputError: fewer than MIN_SIZES sizes, or a lowest loss that does not lie between them.
    """
    name = f"budget {points.budget[0]:g}"
    sizes = sorted(set(points.size))
    if len(sizes) < MIN_SIZES:
        raise InputError(
            f"{name}: a parabola needs {MIN_SIZES} sizes, it has {len(sizes)}; add runs"
        )
    best = sizes.index(points.size[int(np.argmin(points.loss))])
    first = min(max(best - WINDOW // 2, 0), max(len(sizes) - WINDOW, 0))
    window = sizes[first : first + WINDOW]
    near = points.take([i for i, n in enumerate(points.size) if n in window])
    middle = float(np.mean(np.log(near.size)))
    x = np.log(near.size) - middle
    parabola = np.polyfit(x, near.loss, 2)
    lowest = -parabola[1] / (2 * parabola[0]) if parabola[0] > 0 else np.inf
    edge = bracketed and best in (0, len(sizes) - 1)
    if edge or not sizes[0] < np.exp(middle + lowest) < sizes[-1]:
        raise InputError(f"{name}: {_which_way(points)}")
    # From the tokens of the runs, not from C / 6N: what a token costs at a size is in them.
    tokens = np.polyval(np.polyfit(x, np.log(near.tokens), 2), lowest)
    return Profile(
        budget=points.budget[0],
        size=float(np.exp(middle + lowest)),
        tokens=float(np.exp(tokens)),
        loss=float(np.polyval(parabola, lowest)),
        curvature=float(parabola[0]),
        window=(window[0], window[-1]),
    )


def _which_way(points: Points) -> str:
    """Says where the runs that are missing lie."""
    small, large = min(points.size), max(points.size)
    if np.polyfit(np.log(points.size), points.loss, 1)[0] > 0:
        return (
            f"the loss is lowest at or below the smallest size, {small:.3g}; smaller sizes are "
            "needed, or a larger budget"
        )
    return (
        f"the loss is lowest at or above the largest size, {large:.3g}; larger sizes are needed, "
        "or a smaller budget"
    )


def _power(flops: list[float], values: list[float]) -> Power:
    exponent, scale = np.polyfit(np.log(flops), np.log(values), 1)
    return Power(float(np.exp(scale)), float(exponent))
