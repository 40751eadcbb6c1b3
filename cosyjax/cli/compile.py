"""`cosyjax compile --config C --topology v5e-256`: proves a config on chips that are not here."""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

from cosyjax.cli import common
from cosyjax.errors import InputError
from cosyjax.io import plots

EXIT_NO_FIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--config",
        help="of a stage's training, e.g. configs/lm.py:size=cosyvoice2,chips=256, or of a bundle "
        "that is served, configs/cosyvoice2.py",
    )
    parser.add_argument("--topology", help="<generation>-<chips>: v5e-16, v5p-128, v6e-256, ...")
    parser.add_argument("--slices", type=int, default=1, help="of that topology each")
    parser.add_argument(
        "--set", dest="assignments", metavar="A.B=C", nargs="+", action="extend", default=[],
        help="changes of the config",
    )  # fmt: skip
    parser.add_argument(
        "--serve", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
        help="what is served: rows (of a chip), text_tokens, prompt_tokens, max_tokens, left_s, "
        "chunk_tokens, clip_s",
    )  # fmt: skip
    parser.add_argument(
        "--programs", type=lambda words: tuple(words.split(",")), default=(),
        help="of a bundle: some of prefill,decode,stream,features; by default all",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true",
        help="the compiler's least effort: minutes where convolutions take an hour; what it tells "
        "of memory and traffic is a few percent off",
    )  # fmt: skip
    parser.add_argument("--largest", action="store_true", help="search the largest batch that fits")
    parser.add_argument(
        "--matrix", type=Path, help="in the place of --config: a file with get_matrix()"
    )
    parser.add_argument(
        "--rows", type=Path, default=Path("docs/pods.jsonl"),
        help="reports of --matrix; what is there is not compiled again",
    )  # fmt: skip
    parser.add_argument("--docs", type=Path, help="document whose tables --matrix fills")
    parser.add_argument(
        "--only", default="", help="entries of --matrix, such as 'train lm 1xv5e-8'"
    )
    parser.add_argument("--json", type=Path, help="writes the reports")
    parser.add_argument("--plot", type=Path, help="draws bounds and memory to a png")
    parser.add_argument("--save", type=Path, help="keeps the compiled program, for the pod")


def run(args: argparse.Namespace) -> int:
    """Compiles, reports; 1 where a program does not fit the memory."""
    for path, suffix in ((args.json, ".json"), (args.plot, ".png")):
        if path:
            common.check_output(path, (suffix,))
    if args.plot and not plots.available():
        raise InputError("no pictures without matplotlib: pip install 'cosyjax[plot]'")
    if args.save and args.largest:
        raise InputError("--save keeps the program of one batch; leave --largest out")
    if args.matrix:
        return _run_matrix(args)
    if not args.config or not args.topology:
        raise InputError("--config and --topology are needed, or --matrix")
    from cosyjax.aot import request as requests
    from cosyjax.aot import table

    asked = _request(args)
    if args.largest:
        reports = requests.compile_largest(asked, print)
    else:
        reports = requests.compile_all(asked, print, args.save)
    rows = requests.as_rows(reports)
    for row in rows:
        print("\n".join(table.details(row)))
    print("\n".join(["", *table.lines(rows)]))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.plot:
        table.draw(rows, args.plot)
    return 0 if all(report.fits for report in reports) else EXIT_NO_FIT


def _request(args: argparse.Namespace) -> Any:
    from cosyjax.aot import topology as topologies
    from cosyjax.aot.request import Request
    from cosyjax.aot.serve_programs import ServeConfig
    from cosyjax.cli.train import read_config_file
    from cosyjax.config import override

    topology = topologies.parse(args.topology, args.slices)
    topologies.prepare()
    config, serve = read_config_file(args.config), ServeConfig()
    for assignment in args.assignments:
        config = override(config, assignment)
    for assignment in args.serve:
        serve = override(serve, assignment)
    return Request(config, topology, args.programs, serve, args.quick)


def _run_matrix(args: argparse.Namespace) -> int:
    """Compiles the entries that are missing, fills the document, draws."""
    from cosyjax.aot import topology as topologies

    topologies.prepare()
    from cosyjax.aot import matrix, table
    from cosyjax.cli.train import read_config_file

    found = runpy.run_path(str(args.matrix)).get("get_matrix") if args.matrix.is_file() else None
    if found is None:
        raise InputError(f"--matrix {args.matrix}: no such file, or no get_matrix() in it")
    whole = found()
    entries = [one for one in whole if args.only in one.label]
    if not entries:
        raise InputError(f"--only {args.only!r}: no entry has that in its name or topology")
    for row in matrix.compile_missing(entries, args.rows, read_config_file, print):
        print("\n".join(table.details(row)), flush=True)
    rows = matrix.read_rows(args.rows)
    done = [rows[one.key] for one in entries]
    if args.docs:
        matrix.write_docs(args.docs, whole, rows)
    if args.plot:
        table.draw(done, args.plot)
    print("\n".join(table.lines(done)))
    return 0 if all(row["fits"] for row in done) else EXIT_NO_FIT
