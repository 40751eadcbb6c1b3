"""`cosyjax clone PROMPT.wav --text "..." -o VOICE.safetensors`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cosyjax.cli import common
from cosyjax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("prompt", type=Path, help="recording of one speaker, 0.5 to 30 s")
    parser.add_argument("-t", "--text", default="", help="what is said in it")
    parser.add_argument(
        "--no-text", action="store_true", help="for cross-lingual use: the LM sees no prompt"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="NAME.safetensors")
    parser.add_argument("--name", help="name of the voice; by default the output's name")
    parser.add_argument("--note", default="", help="origin and consent, kept in the file")
    common.add_bundle(parser)


def run(args: argparse.Namespace) -> int:
    """Encodes the prompt and writes the voice file."""
    if not args.text.strip() and not args.no_text:
        raise InputError(
            f"{args.prompt}: the transcript is missing; pass --text '...', or --no-text for a "
            "voice that the LM does not continue"
        )
    common.check_output(args.output, (".safetensors",))
    folder = common.bundle_folder(args)
    from cosyjax.infer import synthesize
    from cosyjax.infer.voice import save_voice

    tts = synthesize.load(folder, dtype=args.dtype)
    voice = tts.clone(args.prompt, args.text, name=args.name or args.output.stem, note=args.note)
    save_voice(voice, args.output)
    print(f"wrote {args.output}: {len(voice.speech_tokens)} speech tokens")
    return 0
