"""The largest batch that a chip's memory takes, found by the compiler."""

from __future__ import annotations

from collections.abc import Callable

from cosyjax.aot.report import FITS, Report
from cosyjax.errors import InputError

MOST_TRIALS = 12
Try = Callable[[int], Report]  # rows of a chip -> report


def largest(attempt: Try, first: int, tell: Callable[[str], None]) -> Report:
    """The report of the most rows that fit, to an eighth.

    Memory grows evenly with the rows, so two trials tell where the end is; further ones close in on
    it from both sides.

    Args:
      attempt: compiles for so many rows of a chip.
      first: rows to begin with.
      tell: says what is tried.

    Raises:
      InputError: not even one row fits.
    """
    fitting: dict[int, Report] = {}
    end = 0  # fewest rows that did not fit
    rows = first
    for _ in range(MOST_TRIALS):
        report = attempt(rows)
        tell(f"{rows} rows a chip: {report.error or f'{report.memory.share:.0%} of the memory'}")
        if report.fits:
            fitting[rows] = report
        else:
            end = rows
        most = max(fitting, default=0)
        if end and end - most <= max(most // 8, 1):
            break
        rows = _next(fitting, end) if fitting else end // 2
        if not rows:
            break
    best = fitting[max(fitting)] if fitting else None
    if best is None:
        raise InputError(
            f"not even {end} row(s) of a chip fit; cut the model "
            "(mesh.fsdp, mesh.tensor), recompute more (remat) or shorten the rows"
        )
    return best


def _next(fitting: dict[int, Report], end: int) -> int:
    """Where the end should be by the last two that fit; within what is not yet known."""
    most = max(fitting)
    rest = [rows for rows in fitting if rows != most]
    guess = 2 * most
    if rest:
        before = max(rest)
        share = lambda rows: fitting[rows].memory.share
        slope = (share(most) - share(before)) / (most - before)
        # One beyond the end where it is not yet known: what does not fit is told in a second.
        guess = int(most + (FITS - share(most)) / slope) + (not end) if slope > 0 else 4 * most
    return min(max(guess, most + 1), end - 1 if end else 16 * most)
