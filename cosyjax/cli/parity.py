"""`cosyjax parity DIR`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", type=Path, help="golden files: X.json beside X.safetensors")
    parser.add_argument("--json", type=Path, help="write the table as JSON too")


def run(args: argparse.Namespace) -> int:
    """Prints a verdict per tensor; returns 1 if any fails or is skipped without a reason."""
    from cosyjax.convert.parity import runner

    rows: list[runner.Row] = []

    def keep() -> Iterator[runner.Row]:
        for row in runner.run_folder(args.folder):
            rows.append(row)
            yield row

    for line in runner.table(keep()):
        print(line, flush=True)
    bad = [row for row in rows if row.verdict == "FAIL" or (row.verdict == "skip" and not row.note)]
    skipped = sum(row.verdict == "skip" for row in rows)
    print(f"{len(rows) - len(bad) - skipped} ok, {len(bad)} failed, {skipped} skipped")
    if args.json:
        table = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(row).items()}
            for row in rows
        ]
        args.json.write_text(json.dumps(table, indent=1))
    return 1 if bad else 0
