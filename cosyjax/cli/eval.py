"""`cosyjax eval`: what independent judges make of what a bundle says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cosyjax.cli import common
from cosyjax.errors import InputError

DESCRIPTION = """\
Speaks a list of sentences (or takes audio that is there) and lets independent judges score it:
word or character error rate by a recogniser, speaker similarity, automatic MOS, real-time factor
and time to first audio, with 95 % bootstrap intervals over utterances.

A list is a plain file (one sentence a line), a .jsonl manifest (text; id, path, speaker, lang), or
a SEED-TTS-eval .lst (id|prompt transcript|prompt recording|text[|recording]).
"""
EPILOG = """\
examples:
  cosyjax eval --sentences sentences.txt --asr whisper-base --voices all --json out.json
  cosyjax eval --sentences heldout.jsonl --asr whisper-base --recordings          the ceiling
  cosyjax eval --sentences heldout.jsonl --asr whisper-base --resynthesis         tokens and back
  cosyjax eval --meta-lst en/meta.lst --asr large-v3 --speaker wavlm --mos dnsmos
  cosyjax eval --meta-lst zh/meta.lst --asr paraformer --wavs OTHER_SYSTEM
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_list(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--stream", action="store_true", help="judge the chunks of a stream")
    source.add_argument("--resynthesis", action="store_true", help="recordings to tokens and back")
    source.add_argument("--recordings", action="store_true", help="judge the list's recordings")
    source.add_argument("--wavs", type=Path, metavar="DIR", help="judge DIR/ID.wav of any system")
    parser.add_argument(
        "--voices",
        help="all (each sentence in each voice of its language), rotate (each in one of them, in "
        "turn), own (each in its speaker's), prompt (each in its prompt's), or names with commas; "
        "default prompt where the list has prompts, else all",
    )
    parser.add_argument(
        "--asr",
        required=True,
        help="folder of a CTranslate2 Whisper, its name on a hub, paraformer[:MODEL], or none",
    )
    parser.add_argument(
        "--speaker",
        default="auto",
        help="resemblyzer, eres2net[:MODEL], wavlm[:MODEL] or none; default auto: resemblyzer "
        "where it is installed",
    )
    parser.add_argument("--mos", default="none", help="dnsmos, distillmos, both with a comma, none")
    parser.add_argument("--references", type=Path, help="manifest with recordings of the voices")
    parser.add_argument("--seed", type=int, default=0, help="of the speech and of the bootstrap")
    parser.add_argument("--json", type=Path, help="write every figure, and a row per utterance")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write tables, pictures, audio")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    common.add_bundle(parser)


def _add_list(parser: argparse.ArgumentParser) -> None:
    lists = parser.add_mutually_exclusive_group(required=True)
    lists.add_argument("--sentences", type=Path, metavar="FILE", help="text, .jsonl or .lst")
    lists.add_argument("--meta-lst", type=Path, metavar="FILE", help="a SEED-TTS-eval list")
    parser.add_argument("--lang", help="language of sentences whose list names none")
    parser.add_argument("--languages", help="only these languages, with commas: en,zh")
    parser.add_argument("--limit", type=int, help="so many sentences, spread evenly over the list")


def run(args: argparse.Namespace) -> int:
    """Judges, prints the table, writes JSON and report."""
    if args.json is not None:
        common.check_output(args.json, (".json",))
    from cosyjax.eval import evaluate

    source = next((s for s in ("stream", "resynthesis", "recordings") if getattr(args, s)), "")
    bundle = None
    if args.wavs is None and source != "recordings":
        bundle = common.bundle_folder(args)
    if args.voices and (args.wavs or source in ("recordings", "resynthesis")):
        raise InputError("--voices chooses who speaks a text; this audio has its speakers")
    request = evaluate.Request(
        sentences=args.meta_lst or args.sentences,
        seed_list=args.meta_lst is not None,
        lang=args.lang,
        languages=tuple(filter(None, (args.languages or "").split(","))),
        limit=args.limit,
        source=source or ("wavs" if args.wavs else "synthesis"),
        wavs=args.wavs,
        bundle=bundle,
        dtype=args.dtype,
        voices=args.voices,
        references=args.references,
        asr=args.asr,
        speaker=args.speaker,
        mos=args.mos,
        seed=args.seed,
    )
    tell = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    result = evaluate.evaluate(request, tell, json_path=args.json, report_path=args.report)
    for line in evaluate.table_lines(result):
        print(line)
    return 0
