"""`cosyjax bench`: each case in a process of its own, so that peak memory is its own."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cosyjax.cli import bench_stream
from cosyjax.errors import InputError, nearest

STREAM = "stream"
TRAIN = "train"  # the cases of training, by one name
HEAD = ("case", "compute", "median s", "mad", "rate", "cold s", "warm s", "GiB", "x ref", "x rec")
ROW = "{:<12} {:<20} {:>9} {:>7} {:>18} {:>7} {:>7} {:>6} {:>6} {:>6}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "cases",
        nargs="*",
        help=f"which cases, or {TRAIN!r}, or {STREAM!r} (a table of its own); all of inference by "
        "default",
    )
    bench_stream.add_arguments(parser)
    parser.add_argument("--dtype", help="float32, bfloat16 or auto (default)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every figure as JSON")
    parser.add_argument("--no-reference", action="store_true", help="time only our side")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Prints the table and writes the JSON."""
    if args.cases == [STREAM]:
        return bench_stream.run(args, _machine())
    from cosyjax.eval import cases
    from cosyjax.train import bench as training

    groups = {TRAIN: list(training.CASES)}
    known = [*cases.CASES, *training.CASES, *groups, STREAM]
    for name in args.cases:
        if name not in known:
            raise InputError(f"no case {name!r}; {nearest(name, known)}")
        if name == STREAM:
            raise InputError(f"{STREAM!r} has a table of its own: time it without other cases")
    names = [n for case in args.cases for n in groups.get(case, [case])] or list(cases.CASES)
    if args.in_process:
        rows = [_time(name, args) for name in names]
    else:
        print(ROW.format(*HEAD), flush=True)
        rows = []
        for name in names:
            rows.append(_in_child(name, args))
            print(_line(rows[-1]), flush=True)
        _summary(rows)
    if args.json:
        args.json.write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=1))
    return 0


def _time(name: str, args: argparse.Namespace) -> dict[str, Any]:
    from cosyjax.convert import reference
    from cosyjax.convert.reference_training import qwen2_training
    from cosyjax.eval import bench
    from cosyjax.eval.cases import CASES, DECODE_TOKENS, PREFILL_POSITIONS
    from cosyjax.infer.bundle import BundleConfig
    from cosyjax.infer.compute import make_plan
    from cosyjax.train import bench as training

    config = BundleConfig()
    made: Any = reference.Reference("", None)
    if not args.no_reference:
        makers = {
            "tokenizer": lambda: reference.s3tokenizer(1000),
            "lm_prefill": lambda: reference.qwen2_prefill(config.lm, PREFILL_POSITIONS),
            "lm_decode": lambda: reference.qwen2_decode(
                config.lm, PREFILL_POSITIONS, DECODE_TOKENS
            ),
            "extract": lambda: reference.s3tokenizer(
                100 * training.CLIP_SECONDS, training.NUM_CLIPS
            ),
            "train_lm": lambda: qwen2_training(
                training.SMALL, training.sequence_lengths().tolist(), training.ROWS * training.ROW
            ),
        }
        made = makers[name]() if name in makers else made
    plan = make_plan(args.dtype)
    case = (CASES | training.CASES)[name]
    timing = bench.time_case(name, case, config, plan, reference=made, repeats=args.repeats)
    return {**vars(timing), "plan": plan.why}


def _in_child(name: str, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", "cosyjax", "bench", name, "--in-process", "--json", out]
        command += ["--repeats", str(args.repeats)]
        command += ["--dtype", args.dtype] if args.dtype else []
        command += ["--no-reference"] if args.no_reference else []
        done = subprocess.run([str(word) for word in command], check=False)
        if done.returncode:
            raise InputError(f"case {name!r} ended with code {done.returncode}")
        return json.loads(out.read_text())["rows"][0]


def _line(row: dict[str, Any]) -> str:
    ratio = lambda x: "-" if x is None else f"{x:.2f}"
    return ROW.format(
        row["case"],
        row["compute"],
        f"{row['median_s']:.3f}",
        f"{row['mad_s']:.3f}",
        f"{row['rate']:.1f} {row['unit']}/s",
        f"{row['compile_cold_s']:.1f}",
        f"{row['compile_warm_s']:.1f}",
        f"{row['peak_memory_gib']:.1f}",
        ratio(row["ratio"]),
        ratio(row["recorded_ratio"]),
    )


def _summary(rows: list[dict[str, Any]]) -> None:
    from cosyjax.eval.bench import geometric_mean

    for field, what in (("ratio", "the reference in this run"), ("recorded_ratio", "the record")):
        values = [row[field] for row in rows if row[field]]
        if values:
            print(f"geometric mean against {what}: {geometric_mean(values):.2f}")
    for row in rows:
        if row["data_wait"] is not None:
            print(f"{row['case']}: waits for data {row['data_wait']:.2%} of the time")
    print(f"compute: {rows[0]['plan']}")


def _machine() -> dict[str, Any]:
    import os

    import jax

    import cosyjax

    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "cosyjax": cosyjax.__version__,
    }
