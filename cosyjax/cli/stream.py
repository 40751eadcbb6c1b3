"""`cosyjax stream TEXT`: raw PCM to standard output, a player, or a file, while it still speaks."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cosyjax.cli import common
from cosyjax.errors import InputError
from cosyjax.infer.playback import Playback
from cosyjax.shapes import SAMPLE_RATE_HZ

# Programs that play raw PCM from their standard input; the first one that is installed is taken.
PLAYERS = (
    ("ffplay", "-loglevel", "quiet", "-nodisp", "-autoexit", "-f", "s16le", "-ar", "{rate}", "-"),
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}", "-"),
    ("play", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", "{rate}", "-"),
)
PART_BYTES = 4096  # of text that is read at a time; less where less has come


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("text", help="what to say; - reads standard input while it is written")
    parser.add_argument("-v", "--voice", help="name in the bundle, or a voice file; see `voices`")
    parser.add_argument("--mode", help="zero_shot, cross_lingual, instruct or sft")
    parser.add_argument("--instruct", default="", help="an instruction in words")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same audio")
    parser.add_argument(
        "--blocks",
        action="store_true",
        help="let the LM read text while it comes rather than sentence by sentence",
    )
    parser.add_argument("--first-chunk", type=int, help="tokens (25 a second) of the first sound")
    parser.add_argument("--chunk", type=int, help="tokens of a chunk once the stream runs")
    parser.add_argument(
        "--left-context", type=int, help="mask chunks that attention looks back; -1 for all"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--play", action="store_true", help="play it: " + _player_names())
    where.add_argument("-o", "--output", type=Path, help="write a wav file")
    parser.add_argument("-q", "--quiet", action="store_true", help="no figures on stderr")
    common.add_bundle(parser)


def run(args: argparse.Namespace) -> int:
    """Speaks; by default 16 bit PCM, mono, 24 kHz, little-endian, to standard output."""
    if args.output:
        common.check_output(args.output, (".wav",))
    elif not args.play and sys.stdout.isatty():
        raise InputError(
            "raw audio would go to the terminal: give --play, -o FILE.wav, or a pipe as in "
            "`cosyjax stream TEXT | aplay -f S16_LE -r 24000`"
        )
    player = _find_player() if args.play else ()
    folder = common.bundle_folder(args)
    from cosyjax.infer import synthesize

    tell = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    start = time.perf_counter()
    tts = synthesize.load(folder, dtype=args.dtype)
    streamer = tts.streamer(_setup(args))
    opening = _request(args, streamer)
    tell(f"loaded in {time.perf_counter() - start:.1f} s; {tts.plan.why}")
    start = time.perf_counter()
    streamer.warmup(args.voice)
    tell(f"ready after {time.perf_counter() - start:.1f} s of warming up")
    text = _standard_input() if args.text == "-" else args.text
    with _sink(args.output, player) as write:
        heard = _speak(streamer.stream(text, **opening), write, tell)
    tell(
        f"{heard.audio_s:.2f} s of audio, first after {1e3 * heard.first_audio_s:.0f} ms, RTF "
        f"{heard.rtf:.2f}; "
        + ("no gap" if heard.gap_free else f"gap: {heard.least_margin_s:.2f} s")
    )
    return 0


def _speak(
    wavs: Iterator[np.ndarray], write: Callable[[bytes], Any], tell: Callable[[str], None]
) -> Playback:
    heard = Playback(time.perf_counter())
    for wav in wavs:
        heard.hear(len(wav), time.perf_counter())
        write(np.round(wav * 32767.0).astype("<i2").tobytes())
        tell(
            f"{heard.last_s - heard.started_s:7.3f} s  {len(wav) / SAMPLE_RATE_HZ:5.2f} s of "
            f"sound, {heard.margin_s:5.2f} s ahead of the listener"
        )
    return heard


def _setup(args: argparse.Namespace) -> Any:
    from cosyjax.infer.streaming import StreamSetup

    return StreamSetup(left_context=args.left_context)


def _request(args: argparse.Namespace, streamer: Any) -> dict[str, Any]:
    """The request, checked before anything is computed."""
    sizes = {"first_chunk": args.first_chunk, "chunk": args.chunk}
    given = {name: size for name, size in sizes.items() if size is not None}
    request = {
        "voice": args.voice,
        "mode": args.mode,
        "instruct": args.instruct,
        "seed": args.seed,
        "blocks": args.blocks,
        "schedule": dataclasses.replace(streamer.schedule, **given),
    }
    streamer.opening(**request)
    return request


def _standard_input() -> Iterator[str]:
    """Yields what comes, as soon as it comes; characters are never cut in two."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    try:
        while part := os.read(sys.stdin.fileno(), PART_BYTES):
            yield decode(part)
        decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8 text ({error.reason})") from error


@contextlib.contextmanager
def _sink(output: Path | None, player: tuple[str, ...]) -> Iterator[Callable[[bytes], Any]]:
    """Where the audio goes; a file appears under its name once it is complete."""
    if output:
        import wave

        from cosyjax.io.atomic import atomic_file

        with atomic_file(output) as path, wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            yield file.writeframes
        return
    if player:
        with subprocess.Popen(player, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            yield _flushed(process.stdin)
        return
    yield _flushed(sys.stdout.buffer)


def _flushed(pipe: IO[bytes]) -> Callable[[bytes], Any]:
    return lambda data: (pipe.write(data), pipe.flush())


def _player_names() -> str:
    return ", ".join(player[0] for player in PLAYERS)


def _find_player() -> tuple[str, ...]:
    for player in PLAYERS:
        if shutil.which(player[0]):
            return tuple(part.format(rate=SAMPLE_RATE_HZ) for part in player)
    raise InputError(f"--play needs one of {_player_names()} to be installed; or pipe the output")
