"""`cosyjax convert SRC DST`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("source", help="official model folder, or a hub id such as org/name")
    parser.add_argument("bundle", type=Path, help="folder to make")
    parser.add_argument("--force", action="store_true", help="replace a folder that is not empty")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a size that the tensors do not tell, such as flow.mask_chunk=50",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Reads, checks and writes."""
    from cosyjax.convert import official
    from cosyjax.infer.bundle import MARKS, save_bundle
    from cosyjax.io.atomic import check_apart, check_folder

    tell = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    start = time.perf_counter()
    check_apart(Path(args.source), args.bundle)
    check_folder(args.bundle, force=args.force, marks=MARKS)
    folder = official.resolve(args.source)
    source = args.source if not Path(args.source).exists() else ""
    bundle = official.read_official(folder, overrides=args.overrides, source=source, tell=tell)
    save_bundle(bundle, args.bundle, force=args.force, tell=tell)
    print(f"wrote {args.bundle} in {time.perf_counter() - start:.1f} s")
    return 0
