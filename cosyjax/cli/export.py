"""`cosyjax export BUNDLE DST`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("folder", type=Path, help="official model folder to make")
    parser.add_argument("--force", action="store_true", help="replace a folder that is not empty")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Maps the bundle and writes it under official names."""
    from cosyjax.convert.export import export_bundle
    from cosyjax.infer.bundle import load_bundle
    from cosyjax.io.atomic import check_apart

    tell = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    start = time.perf_counter()
    check_apart(args.bundle, args.folder)
    export_bundle(load_bundle(args.bundle), args.folder, force=args.force, tell=tell)
    print(f"wrote {args.folder} in {time.perf_counter() - start:.1f} s")
    return 0
