"""Times a case beside its reference, interleaved, and says what it cost to compile and to hold."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

from cosyjax.eval.cases import Case, Work
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.compute import ComputePlan


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one case; `ratio` above 1 means faster than the reference in this run."""

    case: str
    what: str
    compute: str
    median_s: float
    mad_s: float
    best_s: float
    rate: float  # units a second, at the median
    unit: str
    compile_cold_s: float
    compile_warm_s: float
    peak_memory_gib: float
    reference: str = ""
    reference_median_s: float | None = None
    ratio: float | None = None
    recorded_s: float | None = None
    recorded_ratio: float | None = None
    data_wait: float | None = None  # share of a training run in which no step had its batch


@runtime_checkable
class Feedable(Protocol):
    """Work that can tell how long it waits for its data."""

    def data_wait(self) -> float:
        """Runs some more and returns a share in [0, 1]."""


def time_case(
    name: str,
    case: Case,
    config: BundleConfig,
    plan: ComputePlan,
    *,
    reference: tuple[str, Work | None, str],
    repeats: int = 7,
) -> Timing:
    """Runs one case.

    Args:
      name: the case's name.
      case: what to run.
      config: sizes of the models.
      plan: operand types.
      reference: (name, function or None, why it is missing); both sides take turns.
      repeats: turns; the median and the median absolute deviation are reported.
    """
    work = case.make(config, plan)
    cold_s, warm_s = _compile_seconds(work)
    reference_name, reference_work, why = reference
    ours, theirs = _take_turns(work, reference_work, repeats)
    median = statistics.median(ours)
    other = statistics.median(theirs) if theirs else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Timing(
        case=name,
        what=case.what,
        compute=_compute_of(case, plan),
        median_s=median,
        mad_s=statistics.median(abs(t - median) for t in ours),
        best_s=min(ours),
        rate=case.amount / median,
        unit=case.unit,
        compile_cold_s=max(0.0, cold_s - median),
        compile_warm_s=max(0.0, warm_s - median),
        peak_memory_gib=peak,
        reference=f"{reference_name}: {why}" if why else reference_name,
        reference_median_s=other,
        ratio=other / median if other else None,
        recorded_s=case.recorded_s,
        recorded_ratio=case.recorded_s / median if case.recorded_s else None,
        data_wait=work.data_wait() if isinstance(work, Feedable) else None,
    )


def _compute_of(case: Case, plan: ComputePlan) -> str:
    fields = {"text_speech_lm": "lm"}
    return "/".join(dict.fromkeys(getattr(plan, fields.get(m, m)) for m in case.modules))


def _compile_seconds(work: Work) -> tuple[float, float]:
    """First call with an empty disk cache, then first call with the programs on disk."""
    before = getattr(jax.config, "jax_compilation_cache_dir")
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        cold_s = _seconds(work)
        jax.clear_caches()
        warm_s = _seconds(work)
        jax.config.update("jax_compilation_cache_dir", before)
    return cold_s, warm_s


def _take_turns(ours: Work, theirs: Work | None, repeats: int) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    ours()
    if theirs:
        theirs()
    for _ in range(repeats):
        times[0].append(_seconds(ours))
        if theirs:
            times[1].append(_seconds(theirs))
    return times


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers; nan for none."""
    return statistics.geometric_mean(values) if values else float("nan")
