"""Resemblyzer: a small speaker embedding (GE2E) whose package brings its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import RATE_HZ, library

# Its requirements name a package that must be compiled and a module that Python has itself.
INSTALL = "pip install 'cosyjax[eval]' && pip install --no-deps resemblyzer"
LEAST_SAMPLES = RATE_HZ // 10


class Resemblyzer:
    """The loaded encoder."""

    name = "resemblyzer"

    def __init__(self, encoder: Any, preprocess: Any) -> None:
        self._encoder, self._preprocess = encoder, preprocess

    def embed(self, wav_16k: np.ndarray) -> np.ndarray:
        """[N] at 16 kHz to [256], of unit norm; pauses are cut out first."""
        spoken = self._preprocess(wav_16k)
        # Its voice detector finds nothing in some noises; what is there is judged all the same.
        heard = spoken if len(spoken) >= LEAST_SAMPLES else wav_16k
        return np.asarray(self._encoder.embed_utterance(heard), np.float32)


def load(model: str) -> Resemblyzer:
    """Loads the weights in the package.

    Raises:
      InputError: the package is missing.
    """
    if model:
        raise InputError(f"resemblyzer has one model; {model!r} is not known")
    package = library("resemblyzer", INSTALL)
    return Resemblyzer(package.VoiceEncoder("cpu", verbose=False), package.preprocess_wav)
