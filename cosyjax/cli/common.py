"""Arguments and checks that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from cosyjax.errors import InputError
from cosyjax.infer import shipped


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds --bundle and --dtype."""
    parser.add_argument(
        "--bundle",
        help=f"bundle folder, or {shipped.NAME!r} for the model that comes with the package; by "
        f"default ${shipped.VARIABLE}, else {shipped.NAME!r}",
    )
    parser.add_argument(
        "--dtype", help="float32, bfloat16 or auto: whichever is faster here (default)"
    )


def bundle_folder(args: argparse.Namespace) -> Path:
    """Returns the bundle that is meant; see `shipped.find_bundle`."""
    return shipped.find_bundle(args.bundle)


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
