"""The command line: `cosyjax VERB ...`; parses, calls, prints, and holds no logic."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import cosyjax
from cosyjax.cli import hugepages
from cosyjax.errors import InputError, nearest

VERBS = {
    "synth": "speak text to an audio file",
    "stream": "speak while it still computes, and while the text is still being written",
    "clone": "make a reusable voice from a prompt recording and its transcript",
    "voices": "list the voices of a bundle",
    "convert": "official model folder or hub id to a bundle",
    "export": "bundle to an official model folder",
    "parity": "run golden files of the official modules through ours",
    "prepare": "recordings and transcripts to a data folder, and features by a bundle",
    "vocabulary": "learn a text tokenizer from transcripts",
    "readings": "texts with their pronunciation to data on which a language model learns to spell",
    "train": "train a stage, or resume it",
    "compile": "prove a config on TPUs that are not here: memory, speed, what chips exchange",
    "curves": "draw the metrics of runs over each other",
    "bundle": "put trained stages together to a bundle",
    "eval": "let independent judges score what a bundle says",
    "scaling": "fit scaling laws to a table of runs, or add a run to it",
    "bench": "time every stage",
}
EXIT_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 (a check failed) or 2 (bad input, said on stderr)."""
    if argv is None:  # the program itself, and not a call from another
        hugepages.restart()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parse(words)
        return args.run(args) or 0
    except InputError as error:
        print(f"cosyjax: error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"cosyjax: error: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("cosyjax: interrupted", file=sys.stderr)
        return 130
    return EXIT_INPUT


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cosyjax", description=cosyjax.__doc__)
    parser.add_argument("--version", action="version", version=f"cosyjax {cosyjax.__version__}")
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        raise InputError(f"no command {verb!r}; {nearest(verb, VERBS)}")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for name, summary in VERBS.items():
        # Only the chosen verb's module is imported: `--help` must not wait for JAX.
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == verb:
            command = importlib.import_module(f"cosyjax.cli.{name}")
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    return parser.parse_args(words)
