"""`cosyjax scaling fit TABLE`, `cosyjax scaling add WORKDIR TABLE --budget C`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cosyjax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    fit = actions.add_parser("fit", help="fit a table of runs", description=_fit.__doc__)
    _add_fit(fit)
    add = actions.add_parser("add", help="add a finished run to a table", description=_add.__doc__)
    _add_add(add)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="csv of launch/scaling_laws.sh")
    parser.add_argument(
        "--budget",
        type=float,
        nargs="+",
        action="extend",
        default=[],
        metavar="FLOPS",
        help="budgets whose best size is asked for, beside those of the table",
    )
    parser.add_argument("--approach", default="both", help="isoflop, parametric or both (default)")
    parser.add_argument("--size", default="non_embedding_params", help="N: this column, or params")
    parser.add_argument(
        "--loss", default="loss_per_speech_token", help="L: this column, or loss_per_pair"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, help="draws; 0: no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the fits, png")
    parser.set_defaults(action=_fit)


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workdir", type=Path, help="of a finished run of the language model")
    parser.add_argument("table", type=Path, help="csv; made if absent")
    parser.add_argument(
        "--budget", type=float, required=True, metavar="FLOPS", help="that the run was asked for"
    )
    parser.add_argument("--commit", default="unknown", help="of the program that ran")
    parser.set_defaults(action=_add)


def run(args: argparse.Namespace) -> int:
    """Fits, or adds."""
    return args.action(args)


def _add(args: argparse.Namespace) -> int:
    """Adds a finished run to a table."""
    from cosyjax.cli import common
    from cosyjax.eval.scaling import measure, table

    common.check_output(args.table, (".csv",))
    if not args.budget > 0:
        raise InputError(f"--budget {args.budget:g}: FLOPs above 0 are needed")
    row = measure.measure_run(args.workdir, args.budget, args.commit)
    table.append_row(args.table, row)
    print(
        f"depth {row.depth}, {row.budget_flops:g} FLOPs: {row.tokens:,} tokens, "
        f"{row.loss_per_speech_token:.4f} nats per speech token, {row.loss_per_pair:.2f} per pair"
    )
    return 0


def _fit(args: argparse.Namespace) -> int:
    """Fits isoFLOP profiles and L(N, D) to a table of runs, with bootstrap intervals."""
    from cosyjax.cli import common
    from cosyjax.eval.scaling import fit, plots, report, table
    from cosyjax.io.atomic import atomic_file

    if args.json is not None:
        common.check_output(args.json, (".json",))
    if args.plot is not None:
        common.check_output(args.plot, (".png",))
        if not plots.available():
            raise InputError("no pictures without matplotlib: pip install 'cosyjax[plot]'")
    result = fit.fit_table(
        table.read_points(args.table, args.size, args.loss),
        approaches=fit.APPROACHES if args.approach == "both" else (args.approach,),
        budgets=args.budget,
        num_draws=args.bootstrap,
        seed=args.seed,
    )
    for line in report.lines(result):
        print(line)
    if args.json is not None:
        with atomic_file(args.json) as partial:
            partial.write_text(json.dumps(report.to_json(result), indent=1) + "\n")
    if args.plot is not None:
        plots.plot_fit(result, args.plot, size=args.size, loss=args.loss)
    return 0
