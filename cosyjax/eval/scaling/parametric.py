"""Fits L(N, D) = E + A / N^alpha + B / D^beta to runs (Hoffmann et al., arXiv 2203.15556, 3.3).

The objective is theirs: the Huber loss of the residuals of log L. As Besiroglu et al. (arXiv
2404.10102) found necessary, the losses are summed, not averaged, and the optimiser runs until it
stands still: with a mean its stopping rule ends it early.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from scipy import optimize

from cosyjax.errors import InputError
from cosyjax.eval.scaling.table import Points

DELTA = 1e-3  # of log L: residuals beyond it count linearly, so that one bad run does not rule
MIN_ROWS, MIN_SIZES, MIN_BUDGETS = 6, 3, 3  # the law has five parameters
EXPONENTS = (0.15, 0.4, 1.0)  # where the search starts, for alpha and beta each
SHARES = (0.2, 0.5, 0.8)  # of the lowest loss, for E
POLISHED = 3  # starts whose ends are followed down to machine precision
RANGE = (1e-3, 5.0)  # of alpha and beta
LEAST_E = 0.01  # of the lowest loss: below it no E was found


@dataclasses.dataclass(frozen=True)
class Law:
    """The five parameters, and what a parameter and a token cost."""

    E: float  # nats; what no size and no amount of data removes
    A: float
    alpha: float
    B: float
    beta: float
    flops_per_nd: float = 6.0  # C = flops_per_nd N D

    def loss(self, size: Any, tokens: Any) -> Any:
        """L(N, D) in nats; of numbers or arrays."""
        return self.E + self.A * size**-self.alpha + self.B * tokens**-self.beta

    @property
    def size_exponent(self) -> float:
        """a of N* ~ C^a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def token_exponent(self) -> float:
        """b of D* ~ C^b."""
        return self.alpha / (self.alpha + self.beta)

    def best_size(self, flops: float) -> float:
        """N* of a budget, where neither a larger nor a smaller model has a lower loss."""
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1.0 / (self.alpha + self.beta))
        return scale * (flops / self.flops_per_nd) ** self.size_exponent

    def best_tokens(self, flops: float) -> float:
        """D* of a budget."""
        return flops / (self.flops_per_nd * self.best_size(flops))

    def best_loss(self, flops: float) -> float | None:
        """Nats of the best size."""
        return float(self.loss(self.best_size(flops), self.best_tokens(flops)))

    @property
    def numbers(self) -> dict[str, float]:
        """The parameters, and the exponents that follow."""
        exponents = {"size_exponent": self.size_exponent, "token_exponent": self.token_exponent}
        return dataclasses.asdict(self) | exponents


def undecided(law: Law, points: Points) -> list[str]:
    """The parameters that stand at an edge of their range: the runs fit as well without them."""
    found = ["E"] if law.E < LEAST_E * min(points.loss) else []
    at_edge = lambda x: x < 1.01 * RANGE[0] or x > 0.99 * RANGE[1]
    return found + [name for name in ("alpha", "beta") if at_edge(getattr(law, name))]


def check_enough(points: Points) -> None:
    """Raises InputError unless the runs can decide five parameters."""
    found = (len({*zip(points.size, points.budget)}), len({*points.size}), len(points.budgets))
    wanted = (MIN_ROWS, MIN_SIZES, MIN_BUDGETS)
    if any(have < need for have, need in zip(found, wanted)):
        raise InputError(
            "the parametric fit has 5 parameters and needs {} runs, {} sizes and {} budgets at "
            "least; the table has {}, {} and {}: add runs to it, see launch/scaling_laws.sh".format(
                *wanted, *found
            )
        )


def fit_law(points: Points, start: Law | None = None) -> Law:
    """Finds the law of the runs.

    Args:
      points: the runs.
      start: where to search from, such as the law of a table of which this is a draw; otherwise
        the best of a grid of starts is taken.

    Raises:
      InputError: too few runs.
    """
    check_enough(points)
    problem = _Problem(points)
    if start is not None:
        ends = [problem.search(x) for x in (problem.pack(start), *problem.starts((0.3,), (0.5,)))]
    else:
        ends = [problem.search(x) for x in problem.starts(EXPONENTS, SHARES)]
    ends = sorted(ends, key=problem.value)[:POLISHED]
    return problem.unpack(min((problem.polish(x) for x in ends), key=problem.value))


class _Problem:
    """The objective over x = (log E, log A', alpha, log B', beta).

    A' and B' belong to N and D in units of their geometric means, which makes the five directions
    of the search nearly as steep as each other.
    """

    def __init__(self, points: Points) -> None:
        log_n, log_d = np.log(points.size), np.log(points.tokens)
        self._mid_n, self._mid_d = float(log_n.mean()), float(log_d.mean())
        self._n, self._d = log_n - self._mid_n, log_d - self._mid_d
        self._log_loss = np.log(points.loss)
        self._lowest, self._spread = float(np.min(points.loss)), float(np.ptp(points.loss))
        costs = np.log(points.flops) - log_n - log_d
        self._flops_per_nd = math.exp(float(costs.mean()))
        self._bounds = [(-30.0, 10.0), (-30.0, 10.0), RANGE, (-30.0, 10.0), RANGE]

    def starts(self, exponents: tuple[float, ...], shares: tuple[float, ...]) -> list[np.ndarray]:
        """A grid; what lies above E is shared evenly by the terms of N and D."""
        found = []
        for alpha, beta, share in itertools.product(exponents, exponents, shares):
            term = math.log((self._lowest * (1 - share) + self._spread / 2) / 2)
            found.append(np.array([math.log(share * self._lowest), term, alpha, term, beta]))
        return found

    def residuals(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log L of the law less that of the runs, [n], and its slopes [n, 5]."""
        e, a, alpha, b, beta = x
        ones = np.ones_like(self._n)
        logs = np.stack([e * ones, a - alpha * self._n, b - beta * self._d])
        highest = logs.max(axis=0)
        parts = np.exp(logs - highest)
        whole = parts.sum(axis=0)
        shares = parts / whole
        slopes = [shares[0], shares[1], -self._n * shares[1], shares[2], -self._d * shares[2]]
        return highest + np.log(whole) - self._log_loss, np.stack(slopes, axis=1)

    def value(self, x: np.ndarray) -> float:
        """The objective."""
        return self._objective(x)[0]

    def _objective(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        residual, slopes = self.residuals(x)
        size = np.abs(residual)
        huber = np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA))
        # In units of DELTA squared: near 1, so that no absolute tolerance ends the search early.
        return float(huber.sum()) / DELTA**2, np.clip(residual, -DELTA, DELTA) @ slopes / DELTA**2

    def search(self, x: np.ndarray) -> np.ndarray:
        """L-BFGS from x until it stands still."""
        options = {"maxiter": 5_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20}
        found = optimize.minimize(
            self._objective, x, jac=True, method="L-BFGS-B", bounds=self._bounds, options=options
        )
        return found.x

    def polish(self, x: np.ndarray) -> np.ndarray:
        """Follows the flat valley of the objective, where L-BFGS creeps, by its curvature."""
        low, high = np.array(self._bounds).T
        found = optimize.least_squares(
            lambda x: self.residuals(x)[0],
            np.clip(x, low + 1e-9, high - 1e-9),
            jac=lambda x: self.residuals(x)[1],
            bounds=(low, high),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            max_nfev=2_000,
        )
        return min((x, found.x), key=self.value)

    def pack(self, law: Law) -> np.ndarray:
        """A law as x, within the bounds."""
        a = math.log(law.A) - law.alpha * self._mid_n
        b = math.log(law.B) - law.beta * self._mid_d
        x = np.array([math.log(law.E), a, law.alpha, b, law.beta])
        return np.clip(x, *np.array(self._bounds).T)

    def unpack(self, x: np.ndarray) -> Law:
        """x as a law."""
        e, a, alpha, b, beta = map(float, x)
        return Law(
            E=math.exp(e),
            A=math.exp(a + alpha * self._mid_n),
            alpha=alpha,
            B=math.exp(b + beta * self._mid_d),
            beta=beta,
            flops_per_nd=self._flops_per_nd,
        )
