"""Arguments and checks that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cosyjax.errors import InputError

BUNDLE_VARIABLE = "COSYJAX_BUNDLE"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds --bundle and --dtype."""
    parser.add_argument(
        "--bundle", type=Path, help=f"bundle folder; by default the one in ${BUNDLE_VARIABLE}"
    )
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or auto: whichever is faster here (default)"
    )


def bundle_folder(args: argparse.Namespace) -> Path:
    """Returns the bundle asked for.

    Raises:
      InputError: none was named.
    """
    named = args.bundle or os.environ.get(BUNDLE_VARIABLE)
    if not named:
        raise InputError(
            "no bundle: pass --bundle FOLDER or set "
            f"{BUNDLE_VARIABLE}; `cosyjax convert SRC FOLDER` makes one from official weights"
        )
    return Path(named)


def check_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuses an output path before any work is done for it.

    Raises:
      InputError: unknown suffix, or a folder that does not exist.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: suffix {path.suffix!r}; allowed: {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
