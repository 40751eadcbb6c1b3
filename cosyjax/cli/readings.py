"""`cosyjax readings`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("manifest", type=Path, help=".jsonl or .jsonl.gz with text and reading")
    parser.add_argument("out", type=Path, help="data folder to make")
    parser.add_argument("--letters", type=Path, required=True, help="tokenizer of the texts")
    parser.add_argument("--phones", type=Path, required=True, help="tokenizer of the readings")
    parser.add_argument("--text-key", default="phonemes", help="field of the reading (phonemes)")


def run(args: argparse.Namespace) -> int:
    """Writes features without speech: `cosyjax train` of an LM reads them as any others."""
    from cosyjax.data.readings import write_readings
    from cosyjax.text.tokenizer import load_tokenizer

    letters, phones = load_tokenizer(args.letters), load_tokenizer(args.phones)
    counts = write_readings(args.manifest, args.out, letters, phones, args.text_key)
    for split, count in counts.items():
        print(f"{args.out}: {split}: {count:,} texts")
    return 0
