"""`cosyjax bench stream`: what streaming costs and how it sounds, by chunk and left context."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosyjax.cli import common
from cosyjax.errors import InputError
from cosyjax.io import plots

SECONDS = ("0.2", "0.4", "1", "2", "4")  # of sound in a chunk
LEFT = ("5", "20", "all")  # seconds that attention looks back
HEAD = (
    *("chunk", "left", "first ms", "chunk ms", "jitter", "slope", "RTF", "margin", "work", "MB"),
    *("mel dB", "level dB", "cents"),
)
ROW = "{:>6} {:>6} {:>9} {:>9} {:>7} {:>7} {:>6} {:>7} {:>6} {:>7} {:>7} {:>9} {:>6}"

LONG_HEAD = ("minute", "RTF", "margin ms", "level dB", "pitch Hz", "timbre dB", "MB", "arrays")
LONG_ROW = "{:>6} {:>6} {:>9} {:>9} {:>9} {:>9} {:>6} {:>6}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only the streams' table takes."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--bundle", help="bundle folder; by default the model that comes with the package"
    )
    group.add_argument("-v", "--voice", help="name in the bundle, or a voice file")
    group.add_argument(
        "--chunks", nargs="+", default=SECONDS, metavar="S", help="seconds of sound in a chunk"
    )
    group.add_argument(
        "--left", nargs="+", default=LEFT, metavar="S", help="seconds looked back; or all"
    )
    group.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="instead speak so long without a break, and tell what falls behind, grows or drifts",
    )
    group.add_argument("--plot", type=Path, help="draw delay against sound, or the drift, as a png")


def run(args: argparse.Namespace, machine: dict[str, Any]) -> int:
    """Prints the table and writes what was asked for."""
    if args.json:
        common.check_output(args.json, (".json",))
    if args.plot:
        common.check_output(args.plot, (".png",))
        if not plots.available():
            raise InputError("no pictures without matplotlib: pip install 'cosyjax[plot]'")
    chunks = [_number(word, "--chunks") for word in args.chunks]
    left = [None if word == "all" else _number(word, "--left") for word in args.left]
    if args.minutes is not None and args.minutes < 1:
        raise InputError(f"--minutes {args.minutes}: at least 1 is needed")
    folder = common.bundle_folder(args)
    from cosyjax.eval import stream_bench
    from cosyjax.infer import synthesize

    tts = synthesize.load(folder, dtype=args.dtype)
    print(f"{folder}: {tts.plan.why}", file=sys.stderr)
    if args.minutes is not None:
        return _run_long(args, tts, {"machine": machine, "bundle": str(folder)})
    given = stream_bench.make_material(tts, args.voice)
    print(ROW.format(*HEAD), flush=True)
    rows = []
    for setting in stream_bench.settings(tts, chunks, left):
        rows.append(stream_bench.measure(tts, setting, args.voice, given))
        print(_line(rows[-1]), flush=True)
    if args.json:
        text = json.dumps({"machine": machine, "bundle": str(folder), "rows": rows}, indent=1)
        args.json.write_text(text)
    if args.plot:
        stream_bench.plot(rows, args.plot)
    return 0


def _run_long(args: argparse.Namespace, tts: Any, about: dict[str, Any]) -> int:
    """One stream of `args.minutes`, minute by minute."""
    from cosyjax.eval import long_stream

    tts.warmup()
    print(LONG_ROW.format(*LONG_HEAD), flush=True)
    parts = []
    speak = lambda text: tts.stream(text, voice=args.voice)
    for part in long_stream.listen(speak, 60.0 * args.minutes):
        parts.append(part)
        print(LONG_ROW.format(f"{part.start_s / 60.0:.0f}", *_rounded(part[1:])), flush=True)
    found = long_stream.drifts(parts)
    for name, drift in found.items():
        print(f"{name}: {drift.change:+.3g} +- {drift.error:.2g} from the first to the last")
    if args.json:
        rows = [part._asdict() for part in parts]
        change = {name: drift._asdict() for name, drift in found.items()}
        args.json.write_text(json.dumps({**about, "parts": rows, "drift": change}, indent=1))
    if args.plot:
        long_stream.plot(parts, args.plot)
    return 0


def _rounded(values: Sequence[float]) -> list[str]:
    return [f"{value:.{digits}f}" for value, digits in zip(values, (3, 0, 2, 1, 2, 0, 0))]


def _number(word: str, option: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise InputError(f"{option} {word}: a number of seconds above 0 is needed")
    return value


def _line(row: dict[str, Any]) -> str:
    return ROW.format(
        f"{row['chunk_s']:.1f}",
        "all" if row["left_s"] is None else f"{row['left_s']:.0f}",
        f"{row['first_audio_ms']:.0f}",
        f"{row['chunk_ms']:.0f}",
        f"{row['chunk_jitter_ms']:.1f}",
        f"{row['chunk_slope_ms']:.2f}",
        f"{row['rtf']:.2f}",
        f"{row['least_margin_ms']:.0f}",
        f"{row['work_ratio']:.2f}",
        f"{row['state_bytes'] / 1e6:.0f}",
        f"{row['mel_distance_db']:.2f}",
        f"{row['level_jump_db']:.2f}",
        f"{row['pitch_jump_cents']:.0f}",
    )
