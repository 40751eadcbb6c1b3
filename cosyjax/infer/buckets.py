"""Short tables of lengths: every call is padded to one of them, so programs are compiled once."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError

# The LM's tables are coarse: reading a padded prompt is cheap beside decoding, and each pair of
# sizes is a program. The flow's have about 1.26 between neighbours: its work grows with the length.
TEXT_TOKENS = (32, 128, 512, 1024)
PROMPT_TOKENS = (0, 128, 256, 768)
MAX_TOKENS = (256, 1024, 4096)
SPEECH_TOKENS = (
    *(32, 40, 48, 64, 80, 104, 128, 160, 208, 256, 320, 416, 512, 640, 832, 1024),
    *(1280, 1664, 2048, 2560, 3328, 4096, 5120, 7500),
)
MEL_FRAMES = tuple(2 * length for length in SPEECH_TOKENS)
AUDIO_SECONDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 30)


def bucket(length: int, table: tuple[int, ...], what: str) -> int:
    """Returns the smallest entry of `table` that holds `length`.

    Raises:
      InputError: `length` is beyond the table.
    """
    for size in table:
        if length <= size:
            return size
    raise InputError(f"{length} {what}; at most {table[-1]} fit in one piece: split the input")


def pad_to(x: Any, size: int, axis: int = 0) -> np.ndarray:
    """Pads an array with zeros at the end of `axis` up to `size`."""
    x = np.asarray(x)
    width = [(0, 0)] * x.ndim
    width[axis] = (0, size - x.shape[axis])
    return np.pad(x, width)
