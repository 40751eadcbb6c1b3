"""`cosyjax curves RUN... -o OUT.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cosyjax.errors import InputError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("runs", type=Path, nargs="+", help="folders of training runs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="png to write")
    parser.add_argument(
        "--metrics", default="loss,heldout_loss", help="names in metrics.jsonl, one plot each"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the same metric of several runs over each other."""
    from cosyjax.cli import common
    from cosyjax.train import plots
    from cosyjax.train.report import METRICS, read_metrics

    common.check_output(args.output, (".png",))
    if not plots.available():
        raise InputError("no pictures without matplotlib: pip install 'cosyjax[plot]'")
    rows = {}
    for folder in args.runs:
        name = folder.name if folder.name not in rows else str(folder)
        rows[name] = read_metrics(folder)
        if not rows[name]:
            raise InputError(f"{folder}: no run there that has logged a step (no {METRICS})")
    names = [name for name in args.metrics.split(",") if name]
    known = sorted({key for of_run in rows.values() for row in of_run for key in row} - {"step"})
    for name in names:
        if name not in known:
            raise InputError(f"no run has a metric {name!r}; {nearest(name, known)}")
    plots.plot_runs(rows, names, args.output)
    print(f"wrote {args.output}")
    return 0
