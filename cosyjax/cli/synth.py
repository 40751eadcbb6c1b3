"""`cosyjax synth TEXT -o OUT.wav`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from cosyjax.cli import common
from cosyjax.errors import InputError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("text", nargs="?", help="what to say; - reads standard input")
    parser.add_argument("-f", "--file", type=Path, help="read the text from a UTF-8 file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="wav, flac, ogg or mp3")
    parser.add_argument("-v", "--voice", help="name in the bundle, or a voice file; see `voices`")
    parser.add_argument("--prompt-wav", type=Path, help="speak in the voice of this recording")
    parser.add_argument("--prompt-text", default="", help="what is said in --prompt-wav")
    parser.add_argument("--mode", help="zero_shot, cross_lingual, instruct or sft")
    parser.add_argument("--instruct", default="", help="an instruction in words")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same audio")
    parser.add_argument("--speed", type=float, default=1.0, help="0.25 to 4")
    parser.add_argument("--raw-text", action="store_true", help="no normalising or splitting")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    common.add_bundle(parser)


def run(args: argparse.Namespace) -> int:
    """Speaks and writes the file."""
    text = _text(args)
    common.check_output(args.output, SUFFIXES)
    folder = common.bundle_folder(args)
    from cosyjax.infer import synthesize

    tell = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    start = time.perf_counter()
    tts = synthesize.load(folder, dtype=args.dtype)
    tell(f"loaded in {time.perf_counter() - start:.1f} s; {tts.plan.why}")
    voice = _voice(args, tts)
    speech = tts.synthesize(
        text,
        voice,
        mode=args.mode,
        instruct=args.instruct,
        seed=args.seed,
        speed=args.speed,
        normalized=args.raw_text,
        progress=lambda p: tell(
            f"piece {p.piece}/{p.num_pieces}: {p.audio_s:.1f} s of audio in {p.elapsed_s:.1f} s "
            f"(RTF {p.elapsed_s / max(p.audio_s, 1e-9):.2f}), {p.left_s:.0f} s left"
        ),
    )
    if not len(speech.wav):
        raise InputError("the LM ended before it spoke; try another --seed or a longer text")
    speech.save(args.output)
    tell(f"wrote {args.output}: {speech.seconds:.2f} s at {speech.sample_rate_hz} Hz")
    return 0


def _text(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.file is None):
        raise InputError("give the text either as an argument or with --file")
    if args.file is not None:
        try:
            return args.file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{args.file}: not UTF-8 text ({error.reason})") from error
    return sys.stdin.read() if args.text == "-" else args.text


def _voice(args: argparse.Namespace, tts):  # type: ignore[no-untyped-def]
    if args.prompt_wav is not None:
        if args.voice:
            raise InputError("--voice and --prompt-wav both name a voice; give one of them")
        if not args.prompt_text.strip() and args.mode not in ("cross_lingual", "instruct"):
            raise InputError(
                "--prompt-wav without --prompt-text: give its transcript, or --mode cross_lingual"
            )
        return tts.clone(args.prompt_wav, args.prompt_text)
    if not args.voice and not tts.voices():
        raise InputError("the bundle has no voice; give --prompt-wav and --prompt-text")
    return args.voice
