"""Object storage is reached through a mount; its addresses are refused, never made into folders."""

from __future__ import annotations

import re
from pathlib import Path

from cosyjax.errors import InputError

# `Path` has by then folded the two strokes of "gs://bucket/x" into one.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)")


def check_mounted(path: Path | str) -> None:
    """Raises InputError for an address such as gs://bucket/run where a folder is needed."""
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        return
    bucket, _, inside = found["rest"].partition("/")
    how = f"gcsfuse {bucket} /bucket" if found["scheme"] == "gs" else "at /bucket"
    raise InputError(
        f"{found['scheme']}://{found['rest']} is an address, and a folder is needed: mount the "
        f"bucket ({how}) and give {f'/bucket/{inside}'.rstrip('/')}; docs/launching.md says how"
    )
