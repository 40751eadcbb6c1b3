"""A fit in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cosyjax.config import to_dict
from cosyjax.eval.scaling.fit import Answer, Estimate, Optimum, Result
from cosyjax.eval.scaling.parametric import undecided
from cosyjax.shapes import TOKEN_RATE_HZ

TITLES = {"isoflop": "isoFLOP", "parametric": "parametric"}


def to_json(result: Result) -> dict[str, Any]:
    """All figures."""
    answers = {}
    for name, answer in result.answers.items():
        answers[name] = {
            "numbers": {key: value._asdict() for key, value in answer.numbers.items()},
            "optima": [_optimum_json(o) for o in answer.optima],
            "draws_fitted": len(answer.draws),
        }
        if name == "isoflop":
            answers[name] |= {
                "profiles": to_dict(answer.model.profiles),
                "budgets_refused": list(answer.model.refused),
            }
    return {
        "num_runs": len(result.points),
        "num_draws": result.num_draws,
        "seed": result.seed,
        "refused": result.refused,
        **answers,
    }


def _optimum_json(optimum: Optimum) -> dict[str, Any]:
    intervals = {name: getattr(optimum, name)._asdict() for name in ("size", "tokens")}
    return {"budget": optimum.budget, "loss": optimum.loss, "depth": optimum.depth, **intervals}


def lines(result: Result) -> Iterator[str]:
    """What the command prints."""
    points = result.points
    sizes = sorted(set(points.size))
    yield (
        f"{len(points)} runs: {len(sizes)} sizes of {count(sizes[0])} to {count(sizes[-1])} "
        f"parameters, {len(points.budgets)} budgets of {points.budgets[0]:g} to "
        f"{points.budgets[-1]:g} FLOPs"
    )
    for name, why in result.refused.items():
        yield f"{TITLES[name]}: refused: {why}"
    for name, answer in result.answers.items():
        yield from _answer_lines(name, answer, result)


def _answer_lines(name: str, answer: Answer, result: Result) -> Iterator[str]:
    numbers = answer.numbers
    yield (
        f"{TITLES[name]}: N* ~ C^{show(numbers['size_exponent'])}, "
        f"D* ~ C^{show(numbers['token_exponent'])}"
    )
    if name == "parametric":
        law = [f"{key} {show(numbers[key])}" for key in ("E", "A", "alpha", "B", "beta")]
        yield "  L = E + A / N^alpha + B / D^beta: " + ", ".join(law)
        open_ones = undecided(answer.model, result.points)
        if open_ones:
            yield f"  these runs do not decide {' and '.join(open_ones)}: add larger budgets"
    else:
        for why in answer.model.refused:
            yield f"  left out: {why}"
    if result.num_draws:
        note = "" if numbers["size_exponent"].low is not None else ", too few for intervals"
        yield f"  {len(answer.draws)} of {result.num_draws} draws gave a fit{note}"
    yield "  budget     parameters                 tokens                     tokens/parameter"
    for optimum in answer.optima:
        yield "  " + _optimum_line(optimum, result.points.speech_share)


def _optimum_line(optimum: Optimum, speech_share: float | None) -> str:
    parts = [
        f"{optimum.budget:<9g}",
        f"{show_count(optimum.size):<25}",
        f"{show_count(optimum.tokens):<25}",
        f"{optimum.tokens.value / optimum.size.value:<7.3g}",
    ]
    if speech_share is not None:
        hours = optimum.tokens.value * speech_share / TOKEN_RATE_HZ / 3600
        parts.append(f"{hours:.3g} h of speech")
    if optimum.depth is not None:
        parts.append(f"depth {optimum.depth}")
    if optimum.loss is not None:
        parts.append(f"{optimum.loss:.3f} nats")
    return "  ".join(parts)


def show(estimate: Estimate) -> str:
    """0.49 (0.43 to 0.55)."""
    if estimate.low is None:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


def show_count(estimate: Estimate) -> str:
    """1.2 M (0.9 M to 1.5 M)."""
    if estimate.low is None or estimate.high is None:
        return count(estimate.value)
    return f"{count(estimate.value)} ({count(estimate.low)} to {count(estimate.high)})"


def count(value: float) -> str:
    """1,234,567 as 1.23 M."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
