"""Paraformer through `funasr`: the recogniser of the paper's Chinese figures. Needs its hub."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import library

INSTALL = "pip install funasr"
MODEL = "paraformer-zh"
LANGUAGES = ("zh", "en")


class Paraformer:
    """A loaded model."""

    def __init__(self, model: Any, name: str) -> None:
        self._model = model
        self.name = f"funasr {name}"

    def transcribe(self, wav_16k: np.ndarray, lang: str) -> str:
        """[N] at 16 kHz to text.

        Raises:
          InputError: another language than Chinese or English.
        """
        if lang not in LANGUAGES:
            raise InputError(f"{self.name} reads {' and '.join(LANGUAGES)}, not {lang!r}")
        return str(self._model.generate(input=wav_16k, disable_pbar=True)[0]["text"])


def load(model: str) -> Paraformer:
    """Opens a folder or a model of the hub, by default the one of SEED-TTS-eval.

    Raises:
      InputError: the package is missing, or the model cannot be had.
    """
    funasr, name = library("funasr", INSTALL), model or MODEL
    try:
        return Paraformer(funasr.AutoModel(model=name, disable_update=True), name)
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"funasr: no model {name!r}: {error}") from error
