"""WavLM with a speaker head through `transformers`. Needs the hub or a folder.

The paper's WavLM figures come from a large model tuned by others, in a format of its own; this is
the base model of the same authors. Compare figures of one judge with one another only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import RATE_HZ, library

INSTALL = "pip install transformers torch"
MODEL = "microsoft/wavlm-base-plus-sv"


class WavLM:
    """A loaded model and what makes its input."""

    def __init__(self, model: Any, extractor: Any, name: str) -> None:
        self._model, self._extractor = model, extractor
        self.name = f"transformers {name}"

    def embed(self, wav_16k: np.ndarray) -> np.ndarray:
        """[N] at 16 kHz to a vector."""
        inputs = self._extractor(wav_16k, sampling_rate=RATE_HZ, return_tensors="pt")
        return np.asarray(self._model(**inputs).embeddings[0].numpy(), np.float32)


def load(model: str) -> WavLM:
    """Opens a folder or a model of the hub.

    Raises:
      InputError: the package is missing, or the model cannot be had.
    """
    transformers, name = library("transformers", INSTALL), model or MODEL
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(name)
        loaded = transformers.WavLMForXVector.from_pretrained(name).eval()
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f"transformers: no model {name!r}: {error}") from error
    return WavLM(loaded.requires_grad_(False), extractor, name)
