"""Configs: typed overrides, nearest keys, round trips."""

from __future__ import annotations

import dataclasses

import pytest

from cosyjax import config
from cosyjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 2
    rate: float = 0.5
    widths: tuple[int, ...] = (1, 2)
    name: str = "a"
    limit: int | None = None
    on: bool = False


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    seed: int = 0


def test_a_config_survives_json_form() -> None:
    value = Outer(Inner(depth=3, widths=(4, 5, 6), limit=7), seed=9)
    assert config.from_dict(Outer, config.to_dict(value)) == value


@pytest.mark.parametrize(
    "assignment, field, wanted",
    [
        ("inner.depth=12", "depth", 12),
        ("inner.rate=2", "rate", 2.0),
        ("inner.widths=(7, 8)", "widths", (7, 8)),
        ("inner.name=bob", "name", "bob"),
        ("inner.limit=3", "limit", 3),
        ("inner.limit=none", "limit", None),
        ("inner.on=true", "on", True),
    ],
)
def test_an_override_takes_the_type_of_its_field(assignment, field, wanted) -> None:
    assert getattr(config.override(Outer(), assignment).inner, field) == wanted


def test_a_typo_names_the_nearest_key() -> None:
    with pytest.raises(InputError, match="inner.dept.*did you mean 'depth'"):
        config.override(Outer(), "inner.dept=3")
    with pytest.raises(InputError, match="did you mean 'seed'"):
        config.from_dict(Outer, {"sead": 1})


@pytest.mark.parametrize(
    "bad",
    ["inner.depth=x", "inner.depth=1.5", "inner.on=3", "inner.depth=true", "seed.x=1", "seed"],
)
def test_a_value_of_the_wrong_type_is_refused(bad: str) -> None:
    with pytest.raises(InputError):
        config.override(Outer(), bad)
