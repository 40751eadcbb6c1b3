"""Fits of tables whose law is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.eval.scaling.fit import Result, fit_table, nearest_depth
from cosyjax.eval.scaling.isoflop import fit_isoflop
from cosyjax.eval.scaling.parametric import Law, check_enough, fit_law, undecided
from cosyjax.eval.scaling.table import Points

LAWS = (
    Law(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28),  # arXiv 2203.15556
    Law(E=1.82, A=482.0, alpha=0.35, B=2085.0, beta=0.37),  # arXiv 2404.10102
    Law(E=3.0, A=20.0, alpha=0.2, B=300.0, beta=0.45),
)
BUDGETS = (1e18, 1e19, 1e20, 1e21)
SLACK = 0.02  # relative; what the issue of scaling laws asks for


def make_points(
    law: Law, sizes: list[list[float]], budgets: tuple[float, ...] = BUDGETS, noise: float = 0.0
) -> Points:
    """Runs of the sizes of each budget; `noise` is the deviation of log L."""
    rows = [(n, c) for own, c in zip(sizes, budgets, strict=True) for n in own]
    size, flops = map(np.array, zip(*rows))
    tokens = flops / (6 * size)
    drawn = np.random.default_rng(1).standard_normal(len(rows))
    loss = law.loss(size, tokens) * np.exp(noise * drawn)
    return Points(*(tuple(x.tolist()) for x in (size, tokens, loss, flops, flops)))


def around(law: Law, count: int = 7, factor: float = 4.0) -> list[list[float]]:
    """For each budget sizes up to `factor` below and above its best one."""
    steps = np.geomspace(1 / factor, factor, count)
    return [(law.best_size(c) * steps).tolist() for c in BUDGETS]


def one_ladder(law: Law, count: int = 9) -> list[list[float]]:
    """The same sizes for all budgets, as runs of a family are."""
    ends = law.best_size(BUDGETS[0]) / 3, law.best_size(BUDGETS[-1]) * 3
    return [np.geomspace(*ends, count).tolist()] * len(BUDGETS)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sizes", [around, one_ladder])
def test_profiles_give_the_exponents_that_made_the_table(law: Law, sizes):
    found = fit_isoflop(make_points(law, sizes(law)))
    a = law.beta / (law.alpha + law.beta)
    assert found.size.exponent == pytest.approx(a, rel=SLACK)
    assert found.tokens.exponent == pytest.approx(1 - a, rel=SLACK)
    assert not found.refused and len(found.profiles) == len(BUDGETS)


@pytest.mark.parametrize("law", LAWS)
def test_the_parametric_fit_gives_the_law_that_made_the_table(law: Law):
    found = fit_law(make_points(law, one_ladder(law)))
    for name in ("E", "A", "alpha", "B", "beta", "flops_per_nd", "size_exponent"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=SLACK), name


def test_one_ruined_run_does_not_rule_the_parametric_fit():
    points = make_points(LAWS[0], one_ladder(LAWS[0]))
    ruined = (points.loss[0] * 1.5, *points.loss[1:])
    found = fit_law(dataclasses.replace(points, loss=ruined))
    assert found.alpha == pytest.approx(LAWS[0].alpha, rel=SLACK)
    assert found.beta == pytest.approx(LAWS[0].beta, rel=SLACK)


def test_a_parameter_that_the_runs_do_not_decide_is_named():
    points = make_points(dataclasses.replace(LAWS[0], E=1e-9), one_ladder(LAWS[0], count=5))
    assert undecided(fit_law(points), points) == ["E"]
    assert not undecided(LAWS[0], points)
    assert undecided(dataclasses.replace(LAWS[0], beta=5.0), points) == ["beta"]


def test_the_best_size_of_a_law_has_the_lowest_loss_of_its_budget():
    law = LAWS[1]
    grid = np.geomspace(0.5, 2.0, 2001) * law.best_size(1e20)
    loss = law.loss(grid, 1e20 / (6 * grid))
    assert grid[np.argmin(loss)] == pytest.approx(law.best_size(1e20), rel=1e-3)
    assert law.best_loss(1e20) == pytest.approx(loss.min(), rel=1e-9)
    assert law.size_exponent + law.token_exponent == pytest.approx(1.0)


@pytest.fixture(scope="module")
def noisy() -> Result:
    points = make_points(LAWS[1], one_ladder(LAWS[1]), noise=2e-3)
    return fit_table(points, budgets=[1e22], num_draws=60, seed=3)


@pytest.mark.parametrize("approach", ["isoflop", "parametric"])
def test_with_noise_the_truth_lies_in_the_interval(noisy: Result, approach: str):
    answer = noisy.answers[approach]
    exponent = answer.numbers["size_exponent"]
    assert exponent.low < LAWS[1].size_exponent < exponent.high
    assert 0.001 < exponent.high - exponent.low < 0.2
    assert 50 < len(answer.draws) <= 60


def test_best_uses_are_told_for_budgets_of_the_table_and_those_asked_for(noisy: Result):
    for answer in noisy.answers.values():
        assert [o.budget for o in answer.optima] == [*BUDGETS, 1e22]
        far = answer.optima[-1]
        assert far.size.low < LAWS[1].best_size(1e22) < far.size.high
        assert far.tokens.low < far.tokens.value < far.tokens.high
        widths = [o.size.high / o.size.low for o in answer.optima]
        assert widths[-1] > widths[1]  # farther out it is less certain


def test_the_seed_alone_decides_the_intervals(noisy: Result):
    again = {"approaches": ["isoflop"], "num_draws": 60}
    same, other = (fit_table(noisy.points, seed=seed, **again) for seed in (3, 4))
    of = lambda result: result.answers["isoflop"].numbers["size_exponent"]
    assert of(same) == of(noisy) and of(other) != of(noisy)


def ladder(depths: list[int]) -> Points:
    """Runs of a family whose blocks grow with the cube of the depth."""
    sizes = [50_000.0 * d**3 + 400_000.0 * d for d in depths]
    points = make_points(LAWS[0], [sizes] * 4)
    return dataclasses.replace(points, depth=tuple(depths * 4))


def test_the_nearest_member_of_the_family_is_named_also_beyond_the_table():
    points = ladder([2, 3, 4, 6, 8])
    for depth in (1, 3, 5, 16, 40):
        assert nearest_depth(points, 50_000.0 * depth**3 + 400_000.0 * depth) == depth
    assert nearest_depth(make_points(LAWS[0], around(LAWS[0])), 1e9) is None


@pytest.mark.parametrize("count, budgets, sizes", [(5, 3, 2), (4, 2, 2), (9, 2, 5), (8, 4, 2)])
def test_too_few_runs_are_refused_and_counted(count: int, budgets: int, sizes: int):
    chosen = [one_ladder(LAWS[0])[0][2 : 2 + sizes]] * budgets
    points = make_points(LAWS[0], chosen, BUDGETS[:budgets])
    points = points.take(range(min(count, len(points))))
    told = f"has {len(points)}, {len(set(points.size))} and {len(points.budgets)}"
    with pytest.raises(InputError, match=f"6 runs, 3 sizes and 3 budgets .* {told}"):
        fit_law(points)


def test_runs_that_a_draw_repeats_do_not_count_twice():
    points = make_points(LAWS[0], one_ladder(LAWS[0]))
    check_enough(points.take([0, 1, 2, 10, 20, 30]))
    with pytest.raises(InputError, match="the table has 5, 3 and 3"):
        check_enough(points.take([0, 1, 2, 10, 20, 20, 20, 20]))


def sizes_beside(below: bool, above: bool) -> list[list[float]]:
    """The first budget has sizes on one side of its best one only."""
    law = LAWS[0]
    first = [f * law.best_size(BUDGETS[0]) for f in (0.2, 0.4, 0.7) if below]
    first += [f * law.best_size(BUDGETS[0]) for f in (1.5, 2.5, 5.0) if above]
    return [first, *around(law)[1:]]


def test_a_budget_that_is_best_at_an_edge_is_left_out_by_name_and_the_way_out_is_told():
    small = fit_isoflop(make_points(LAWS[0], sizes_beside(below=True, above=False)))
    assert len(small.refused) == 1
    assert "budget 1e+18" in small.refused[0] and "larger sizes are needed" in small.refused[0]
    large = fit_isoflop(make_points(LAWS[0], sizes_beside(below=False, above=True)))
    assert "budget 1e+18" in large.refused[0] and "smaller sizes are needed" in large.refused[0]
    a = LAWS[0].size_exponent
    assert small.size.exponent == large.size.exponent == pytest.approx(a, rel=SLACK)


def test_one_budget_makes_no_exponent():
    points = make_points(LAWS[0], around(LAWS[0])[:1], BUDGETS[:1])
    with pytest.raises(InputError, match="needs 2 budgets .* has 1 of 1"):
        fit_isoflop(points)


def test_two_sizes_make_no_parabola():
    sizes = [own[2:4] for own in around(LAWS[0])]
    with pytest.raises(InputError, match=r"budget 1e\+21: a parabola needs 3 sizes, it has 2"):
        fit_isoflop(make_points(LAWS[0], sizes))


def test_what_one_approach_cannot_do_the_other_may():
    points = make_points(LAWS[0], [own[2:4] for own in around(LAWS[0])])
    result = fit_table(points, num_draws=0)
    assert list(result.answers) == ["parametric"] and "3 sizes" in result.refused["isoflop"]
    assert result.answers["parametric"].numbers["alpha"].low is None  # no draws, no interval
    with pytest.raises(InputError, match="3 sizes.*6 runs"):
        fit_table(points.take([0, 1]), num_draws=0)


@pytest.mark.parametrize(
    "given, told",
    [
        ({"approaches": ["isoflops"]}, "did you mean 'isoflop'"),
        ({"budgets": [-1.0]}, "budget -1"),
        ({"budgets": [float("nan")]}, "budget nan"),
        ({"num_draws": -1}, "0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(given, told: str):
    with pytest.raises(InputError, match=told):
        fit_table(make_points(LAWS[0], around(LAWS[0])), **given)
