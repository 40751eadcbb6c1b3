"""`cosyjax bundle`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdirs", type=Path, nargs="*", help="folders of training runs")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--base", type=Path, help="bundle that gives what no run trains")
    parser.add_argument("--tokenizer", type=Path, help="folder of the text tokenizer")
    parser.add_argument("--which", choices=("best", "last"), default="best")
    parser.add_argument(
        "--partial", action="store_true", help="for preparing data: models may miss"
    )
    parser.add_argument(
        "--store", default="float32", help="form on disk: float32 (default), float16 or int8"
    )
    parser.add_argument("--force", action="store_true", help="replace the folder")


def run(args: argparse.Namespace) -> int:
    """Writes a bundle from trained stages."""
    from cosyjax.infer.bundle import save_bundle
    from cosyjax.train.assemble import assemble

    bundle = assemble(
        args.workdirs,
        base=args.base,
        tokenizer=args.tokenizer,
        which=args.which,
        partial=args.partial,
    )
    save_bundle(bundle, args.out, force=args.force, store=args.store, tell=print)
    print(f"wrote {args.out}: {', '.join(bundle.params)}")
    return 0
