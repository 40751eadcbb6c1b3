"""`cosyjax voices`."""

from __future__ import annotations

import argparse

from cosyjax.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    common.add_bundle(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a line per voice: name, language, seconds of prompt, note."""
    folder = common.bundle_folder(args)
    from cosyjax import shapes
    from cosyjax.infer.bundle import load_bundle

    bundle = load_bundle(folder, modules=())
    for name in sorted(bundle.voices):
        voice = bundle.voices[name]
        seconds = len(voice.speech_tokens) / shapes.TOKEN_RATE_HZ
        kind = f"{seconds:5.1f} s prompt" if voice.has_prompt else "embedding only"
        mark = " (default)" if name == bundle.default_voice else ""
        said = _printable(voice.note or voice.prompt_text)
        print(f"{name:<20} {voice.lang:<2} {kind:<15} {said}{mark}")
    if not bundle.voices:
        print("no voices; make one with `cosyjax clone`")
    return 0


def _printable(text: str) -> str:
    """The first 60 characters on one line; what no terminal can show becomes a question mark."""
    return "".join(c if c.isprintable() and c != "\ufffd" else "?" for c in text[:60])
