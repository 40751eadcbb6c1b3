"""`cosyjax bundle`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdirs", type=Path, nargs="*", help="folders of training runs")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--base", help="bundle that gives what no run trains; mini: the shipped")
    parser.add_argument("--tokenizer", type=Path, help="folder of the text tokenizer")
    parser.add_argument("--which", choices=("best", "last"), default="best")
    parser.add_argument(
        "--partial", action="store_true", help="for preparing data: models may miss"
    )
    parser.add_argument(
        "--store", default="float32", help="form on disk: float32 (default), float16 or int8"
    )
    parser.add_argument(
        "--voices",
        type=Path,
        metavar="LIST",
        help="JSONL: name, path, text; lang and note if known",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="where LIST's paths begin; default LIST's folder",
    )
    parser.add_argument("--card", type=Path, help="text of the bundle's README.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="how it speaks by default, e.g. sampling.top_k=10 or max_tokens_per_text_token=5",
    )
    parser.add_argument("--force", action="store_true", help="replace the folder")


def run(args: argparse.Namespace) -> int:
    """Writes a bundle from trained stages."""
    from cosyjax.eval.lists import read_recording
    from cosyjax.infer import shipped, voice_list
    from cosyjax.infer.bundle import save_bundle
    from cosyjax.infer.bundle_config import generation
    from cosyjax.train.assemble import assemble

    rows = voice_list.read_voice_list(args.voices) if args.voices else []
    card = args.card.read_text(encoding="utf-8") if args.card else None
    bundle = assemble(
        args.workdirs,
        base=shipped.find_bundle(args.base) if args.base else None,
        tokenizer=args.tokenizer,
        which=args.which,
        partial=args.partial,
    )
    bundle = dataclasses.replace(bundle, config=generation(bundle.config, args.set))
    if rows:
        root = args.recordings or args.voices.parent
        bundle = voice_list.add_voices(bundle, rows, root, read_recording)
    save_bundle(bundle, args.out, force=args.force, store=args.store, card=card, tell=print)
    voices = f"; voices {', '.join(bundle.voices)}" if bundle.voices else ""
    print(f"wrote {args.out}: {', '.join(bundle.params)}{voices}")
    return 0
