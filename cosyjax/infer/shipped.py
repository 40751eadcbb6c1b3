"""Which bundle is meant: the one that is named, else `$COSYJAX_BUNDLE`, else the shipped one.

The shipped model, cosyjax-mini, lies in the package. It goes by the word "mini"; a folder of that
name is `./mini`.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from cosyjax.errors import InputError

NAME = "mini"
VARIABLE = "COSYJAX_BUNDLE"


def find_bundle(named: Path | str | None = None) -> Path:
    """Returns the folder of the bundle that is meant.

    Args:
      named: a folder, or "mini" for the shipped one; None or "" where nothing was said. A `Path`
        is always a folder.

    Raises:
      InputError: the shipped one is meant and this copy of the package has none.
    """
    meant = named or os.environ.get(VARIABLE) or NAME
    return shipped_folder() if meant == NAME else Path(meant)


def shipped_folder() -> Path:
    """Returns the folder of cosyjax-mini.

    Raises:
      InputError: this copy of the package comes without it.
    """
    folder = Path(str(_assets())) / NAME
    if not (folder / "config.json").is_file():
        raise InputError(
            f"no bundle: this copy of cosyjax has no model in {folder}. Name a folder with "
            f"--bundle (cosyjax.load(FOLDER)) or set {VARIABLE}; `cosyjax convert SRC FOLDER` "
            "makes one from official weights"
        )
    return folder


def _assets() -> object:
    return resources.files("cosyjax") / "assets"
