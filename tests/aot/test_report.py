"""A report follows from a program's counts and the data sheet, and the search finds the end."""

from __future__ import annotations

import dataclasses

import pytest

from cosyjax.aot import topology
from cosyjax.aot.largest import largest
from cosyjax.aot.report import Memory, Report, Work
from cosyjax.errors import InputError

CHIP = topology.parse("v5e-8").chip
quiet = lambda line: None


def report(work: Work = Work(), used: float = 0.5, error: str = "") -> Report:
    memory = Memory(arguments=int(used * CHIP.hbm_bytes), limit=CHIP.hbm_bytes)
    sizes = {"chips": 8, "mesh": {}, "rows": 8, "units": 1.0, "audio_s": 0.0, "params": 1}
    return Report(
        program="train",
        topology="v5e-8",
        peak_flops=CHIP.flops,
        model_flops=0.5e12,
        error=error,
        memory=memory,
        work=work,
        seconds=work.seconds(CHIP),
        **sizes,
    )


def test_the_slowest_part_bounds_a_step() -> None:
    busy = report(Work(flops=1e12, passes=1e12, hbm_bytes=819e9, ici_bytes=20e9))
    assert busy.bound == "memory" and busy.run_s == pytest.approx(1.0)
    assert busy.mfu == pytest.approx(0.5e12 / CHIP.flops)
    assert busy.mfu_in_turn == pytest.approx(0.5e12 / CHIP.flops / (1.0 + 1e12 / 197e12 + 0.1))
    assert report(Work(passes=197e12, hbm_bytes=1.0)).bound == "compute"


def test_full_float32_takes_six_passes() -> None:
    assert Work(flops=1e12, passes=6e12).seconds(CHIP)["compute"] == pytest.approx(6 / 197)


@pytest.mark.parametrize("used, fits", [(0.89, True), (0.91, False)])
def test_a_tenth_of_the_memory_stays_free(used: float, fits: bool) -> None:
    assert report(used=used).fits is fits
    assert not report(used=used, error="out of memory").fits


@pytest.mark.parametrize("most", [1, 3, 8, 21, 100])
def test_the_largest_batch_is_found_to_an_eighth(most: int) -> None:
    tried = []

    def attempt(rows: int) -> Report:
        tried.append(rows)
        error = "out of memory" if rows > 2 * most else ""
        return dataclasses.replace(report(used=0.9 * rows / most, error=error), rows=rows)

    found = largest(attempt, 4, quiet)
    assert most - max(most // 8, 1) < found.rows <= most
    assert len(tried) <= 8


def test_where_nothing_fits_it_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"mesh\.fsdp"):
        largest(lambda rows: report(used=2.0), 4, quiet)


@pytest.mark.parametrize(
    "name, told",
    [
        ("v5e", "<generation>-<chips>"),
        ("v5-8", "v5e"),
        ("v5e-12", "1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p-2", "4, 8"),
    ],
)
def test_a_topology_that_is_not_there_says_what_is(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        topology.parse(name)


def test_slices_count_together() -> None:
    both = topology.parse("v5e-256", 2)
    assert (both.total_chips, both.name, both.torus) == (512, "2xv5e-256", (16, 16))
