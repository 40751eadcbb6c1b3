"""DistillMOS, whose package brings the weights. It hears vocoder noise that DNSMOS passes over."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import library

# Its requirements name torchaudio, which there is not for every torch.
INSTALL = "pip install 'cosyjax[eval]' && pip install --no-deps distillmos xls-r-sqa"


class DistillMOS:
    """The loaded predictor."""

    name = "distillmos"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._weight = next(iter(model.parameters()))

    def score(self, wav_16k: np.ndarray) -> dict[str, float]:
        """[N] at 16 kHz to one opinion."""
        batch = self._weight.new_tensor(wav_16k[None])
        return {"mos": float(self._model(batch)[0])}


def load(model: str) -> DistillMOS:
    """Loads the weights in the package.

    Raises:
      InputError: the package is missing.
    """
    if model:
        raise InputError(f"distillmos has one model; {model!r} is not known")
    with _torchaudio_or_nothing():
        package = library("distillmos", INSTALL)
    return DistillMOS(package.ConvTransformerSQAModel().eval().requires_grad_(False))


@contextlib.contextmanager
def _torchaudio_or_nothing() -> Iterator[None]:
    """Only its command line uses torchaudio, but its first lines import it."""
    if "torchaudio" in sys.modules or importlib.util.find_spec("torchaudio") is not None:
        yield
        return
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]  # others ask whether it is there
