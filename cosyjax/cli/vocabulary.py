"""`cosyjax vocabulary`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("data", type=Path, nargs="+", help="data folders of `cosyjax prepare`")
    parser.add_argument("out", type=Path, help="tokenizer folder to make")
    parser.add_argument("--size", type=int, default=2048, help="ids, special tokens included")
    parser.add_argument("--force", action="store_true", help="replace the folder")


def run(args: argparse.Namespace) -> int:
    """Learns a byte-level BPE from the transcripts of the train split."""
    from cosyjax.data.records import open_source
    from cosyjax.data.vocabulary import train_tokenizer

    sources = [open_source(path, "audio", "train") for path in args.data]
    texts = (str(source[i]["text"]) for source in sources for i in range(len(source)))
    made = train_tokenizer(texts, args.size, args.out, force=args.force)
    print(f"wrote {args.out}: {made.vocab_size} ids")
    return 0
