"""`cosyjax prepare`: recordings and transcripts to a data folder, and features by a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cosyjax.errors import InputError

DESCRIPTION = """\
Makes a data folder that the trainers read: every clip is decoded and checked, and kept as it is in
ArrayRecord files; with --bundle, its features (speech tokens, speaker embedding, mel, pitch, text
tokens) are computed in batches beside it. Clips that are refused stand in OUT/rejected.jsonl with
the reason.

SRC is one of: a .jsonl or .tsv manifest (columns path and text; id, speaker, lang, split and
duration where known; a path may be SHARD.tar/MEMBER); a folder with such manifests and audio or
.tar shards; LJSpeech (metadata.csv, wavs/); LibriTTS; a folder of audio with a .txt of the same
name beside each file.
"""
EPILOG = """\
examples:
  cosyjax prepare LibriTTS/train-clean-100 DATA
  cosyjax prepare corpus/train corpus/heldout DATA --bundle BUNDLE
  cosyjax prepare DATA DATA --bundle BUNDLE            features for recordings prepared before
  cosyjax prepare SRC DATA --process 0 --num-processes 4     and 1, 2, 3 elsewhere, at the same time

A run that was stopped goes on when the same command is given again. Parts are shared by number:
give --parts a multiple of the number of processes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sources", nargs="+", metavar="SRC", type=Path, help="recordings; or OUT")
    parser.add_argument("out", metavar="OUT", type=Path, help="data folder to make or go on with")
    parser.add_argument("--bundle", type=Path, help="compute features with this bundle's models")
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or auto: whichever is faster here (default)"
    )
    parser.add_argument(
        "--heldout",
        type=float,
        default=0.02,
        help="share of clips held out where the source has no split (default 0.02)",
    )
    parser.add_argument("--parts", type=int, help="number of parts; by default one per 512 clips")
    parser.add_argument("--lang", help="language of clips whose manifest names none")
    parser.add_argument(
        "--text-key", help="manifest field that holds the transcript, such as phonemes"
    )
    parser.add_argument("--process", type=int, default=0, help="number of this process, from 0")
    parser.add_argument("--num-processes", type=int, default=1, help="how many share the work")
    parser.add_argument(
        "--batch-seconds", type=float, help="audio per batch (default 32 on a CPU, 480 elsewhere)"
    )


def run(args: argparse.Namespace) -> int:
    """Makes this process's parts; whoever finds all of them complete writes prepare.json."""
    from cosyjax.data import finish, prepare, records
    from cosyjax.io.mounts import check_mounted

    for path in (*args.sources, args.out, args.bundle or ""):
        check_mounted(path)
    config = prepare.PrepareConfig(
        heldout=args.heldout,
        num_parts=args.parts,
        process=args.process,
        num_processes=args.num_processes,
        lang=args.lang,
        text_key=args.text_key,
    )
    if args.batch_seconds is not None and args.batch_seconds <= 0:
        raise InputError(f"--batch-seconds={args.batch_seconds:g} must be positive")
    on_itself = [source.resolve() for source in args.sources] == [args.out.resolve()]
    if on_itself:
        if not args.bundle:
            raise InputError(f"{args.out} as its own source: name a --bundle to compute features")
        records.read_summary(args.out)
    extract = _open_bundle(args) if args.bundle else None  # before hours of other work
    if not on_itself:
        plan = prepare.make_plan(args.sources, args.out, config)
        args.out.mkdir(exist_ok=True)
        prepare.prepare_audio(plan, _tell)
        _report(args.out, "audio", finish.finish_audio(plan))
    if extract is not None:
        convert, made_by = extract
        prepare.prepare_features(args.out, convert, made_by, config, _tell)
        _report(args.out, "features", finish.finish_features(args.out))
    return 0


def _open_bundle(args: argparse.Namespace) -> Any:
    from cosyjax.infer.compute import enable_compilation_cache
    from cosyjax.train.extract import load_extract

    enable_compilation_cache()
    dtype = None if args.dtype == "auto" else args.dtype
    return load_extract(args.bundle, args.out, dtype=dtype, batch_s=args.batch_seconds)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(out: Path, kind: str, summary: dict[str, Any] | None) -> None:
    if summary is None:
        print(f"{out}: {kind} of this process done; parts of other processes are not there yet")
        return
    for split, counts in summary[kind]["splits"].items():
        hours = counts["audio_s"] / 3600
        codes = ""
        if "num_codes" in counts:
            codes = f", {counts['num_codes']:,} codes, perplexity {counts['code_perplexity']:,.0f}"
        print(f"{out}: {kind}, {split}: {counts['num_records']:,} clips, {hours:.2f} h{codes}")
    if kind == "audio" and summary["num_rejected"]:
        print(f"{out}: {summary['num_rejected']:,} clips refused; see {out / 'rejected.jsonl'}")
