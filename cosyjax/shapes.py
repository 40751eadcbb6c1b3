"""The legend of dimension letters, the rates of the system, and a check for both.

Letters used in every docstring:
    B batch            T speech tokens (25 Hz)   S text tokens       L sequence of the LM
    F mel frames       N samples                 D model width       M mel bins
    H heads            K key-value heads         P width of a head   V vocabulary
    Q code dimensions  C chunk                   A look-ahead

Rates (CosyVoice 2, arXiv 2412.10117, sections 2.2 to 2.4): 25 speech tokens, 50 mel frames and
24 000 samples a second.
"""

from __future__ import annotations

from typing import Any

from cosyjax.errors import InputError

SAMPLE_RATE_HZ = 24_000
TOKENIZER_RATE_HZ = 16_000
TOKEN_RATE_HZ = 25
FRAMES_PER_TOKEN = 2
SAMPLES_PER_FRAME = 480
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * SAMPLES_PER_FRAME
NUM_MELS = 80
SPEAKER_DIM = 192
CODEBOOK_SIZE = 6561


def check(x: Any, letters: str, name: str = "array", **sizes: int) -> None:
    """Raises InputError unless `x` has the rank and the sizes that `letters` ask for.

    Args:
      x: an array or tracer.
      letters: dimension names or numbers, separated by blanks, such as "B F 80".
      name: what the message calls `x`.
      **sizes: the size of a letter, where it is known.
    """
    wanted = letters.split()
    given = tuple(x.shape)
    fits = len(wanted) == len(given) and all(
        size == (int(letter) if letter.isdigit() else sizes.get(letter, size))
        for letter, size in zip(wanted, given)
    )
    if not fits:
        known = "".join(f", {letter}={size}" for letter, size in sizes.items())
        raise InputError(f"{name} has shape {given}, but [{', '.join(wanted)}]{known} is needed")
