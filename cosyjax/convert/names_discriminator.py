"""Official keys of the discriminators.

Two spellings of weight norm are in use: the old one (`weight_g`, `weight_v`, multi-period) and the
parametrised one (`parametrizations.weight.original0/1`, multi-resolution). Either is accepted in
either place, because it depends on the library version that wrote the checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection

from cosyjax.convert.mapping import Rule
from cosyjax.models.discriminators import DiscriminatorsConfig

OLD_STYLE = ("weight_g", "weight_v")
PARAMETRIZED = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def rules(config: DiscriminatorsConfig, keys: Collection[str] = ()) -> list[Rule]:
    """The table for both families under the official prefixes `mpd` and `mrd`.

    Args:
      config: sizes.
      keys: keys of the checkpoint at hand, which tell the spelling of each layer; without them
        the official spelling is taken.
    """
    table: list[Rule] = []
    num_convs = len(config.multi_period.channels)
    for i in range(len(config.multi_period.periods)):
        theirs = f"mpd.discriminators.{i}."
        table += period_rules(num_convs, f"periods_{i}.", theirs, keys)
    num_convs = config.multi_resolution.num_strided + 2
    for i in range(len(config.multi_resolution.resolutions)):
        theirs = f"mrd.discriminators.{i}."
        table += resolution_rules(num_convs, f"resolutions_{i}.", theirs, keys)
    return table


def period_rules(
    num_convs: int, ours: str = "", theirs: str = "", keys: Collection[str] = ()
) -> list[Rule]:
    """The table of one period's branch."""
    pairs = [(f"{ours}convs_{i}", f"{theirs}convs.{i}") for i in range(num_convs)]
    pairs += [(f"{ours}out", f"{theirs}conv_post")]
    return [rule for pair in pairs for rule in _conv(*pair, OLD_STYLE, keys)]


def resolution_rules(
    num_convs: int, ours: str = "", theirs: str = "", keys: Collection[str] = ()
) -> list[Rule]:
    """The table of one resolution's branch."""
    pairs = [(f"{ours}convs_{i}", f"{theirs}discriminators.{i}") for i in range(num_convs)]
    pairs += [(f"{ours}out", f"{theirs}out")]
    return [rule for pair in pairs for rule in _conv(*pair, PARAMETRIZED, keys)]


def _conv(ours: str, theirs: str, style: tuple[str, str], keys: Collection[str]) -> list[Rule]:
    other = PARAMETRIZED if style == OLD_STYLE else OLD_STYLE
    length, direction = other if f"{theirs}.{other[1]}" in keys else style
    return [
        Rule(f"{ours}.scale", f"{theirs}.{length}", "conv2d"),
        Rule(f"{ours}.direction", f"{theirs}.{direction}", "conv2d"),
        Rule(f"{ours}.bias", f"{theirs}.bias"),
    ]
