"""Judges: recognisers, speaker embeddings and MOS predictors, each found by name.

None is part of this package and none shares data with it. A judge is any object that fits one of
the protocols below; its loader stands in one of the three tables and imports its library when the
judge is asked for. `register` adds another.

    recogniser   a CTranslate2 folder or hub name of Whisper, paraformer[:MODEL]
    speaker      resemblyzer, eres2net[:MODEL], wavlm[:MODEL]
    mos          dnsmos, distillmos
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from cosyjax.errors import InputError, nearest

NONE = "none"
WHISPER = "faster-whisper"
RATE_HZ = 16_000  # of every waveform that a judge is given


class Recognizer(Protocol):
    """Reads speech."""

    name: str  # library and model, for the report

    def transcribe(self, wav_16k: np.ndarray, lang: str) -> str:
        """[N] float32 in [-1, 1] at 16 kHz, and a language of two letters, to text."""
        ...


class SpeakerJudge(Protocol):
    """Tells voices apart."""

    name: str

    def embed(self, wav_16k: np.ndarray) -> np.ndarray:
        """[N] float32 in [-1, 1] at 16 kHz to a vector whose angle to others tells likeness."""
        ...


class MosJudge(Protocol):
    """Predicts what listeners would say of the quality."""

    name: str

    def score(self, wav_16k: np.ndarray) -> dict[str, float]:
        """[N] float32 in [-1, 1] at 16 kHz to named opinions from 1 to 5."""
        ...


Load = Callable[[str], Any]  # what stands after the colon of the name -> a judge


def _lazy(module: str) -> Load:
    return lambda model: importlib.import_module(f"{__name__}.{module}").load(model)


RECOGNIZERS: dict[str, Load] = {WHISPER: _lazy("whisper"), "paraformer": _lazy("paraformer")}
SPEAKERS: dict[str, Load] = {
    "resemblyzer": _lazy("ge2e"),
    "eres2net": _lazy("eres2net"),
    "wavlm": _lazy("wavlm"),
}
MOS: dict[str, Load] = {"dnsmos": _lazy("dnsmos"), "distillmos": _lazy("distilled_mos")}


def register(table: dict[str, Load], name: str, load: Load) -> None:
    """Adds a judge to RECOGNIZERS, SPEAKERS or MOS; `load` gets what stands after `name:`.

    Raises:
      InputError: the name is taken or cannot be written on a command line.
    """
    if name in table or name == NONE or set(name) & set(":,"):
        raise InputError(f"no judge can be called {name!r}; taken: {sorted(table)}")
    table[name] = load


def load_recognizer(spec: str) -> Recognizer | None:
    """A name of RECOGNIZERS, or a CTranslate2 folder or hub name of Whisper; None for "none".

    Raises:
      InputError: a missing package, folder or model.
    """
    name, _, model = spec.partition(":")
    if spec == NONE:
        return None
    if name in RECOGNIZERS:
        return RECOGNIZERS[name](model)
    return RECOGNIZERS[WHISPER](spec)


def load_speaker(spec: str) -> SpeakerJudge | None:
    """A name of SPEAKERS; None for "none".

    Raises:
      InputError: an unknown judge, or a missing package or model.
    """
    return None if spec == NONE else _load(SPEAKERS, spec, "speaker")


def load_mos(specs: str) -> dict[str, MosJudge]:
    """Names of MOS with commas between; none for "none".

    Raises:
      InputError: an unknown judge, or a missing package or model.
    """
    names = [name.strip() for name in specs.split(",") if name.strip()]
    return {name.partition(":")[0]: _load(MOS, name, "MOS") for name in names if name != NONE}


def _load(table: dict[str, Load], spec: str, kind: str) -> Any:
    name, _, model = spec.partition(":")
    if name not in table:
        raise InputError(f"no {kind} judge {name!r}; {nearest(name, [*table, NONE])}")
    return table[name](model)


def library(name: str, install: str) -> ModuleType:
    """Imports a judge's library.

    Raises:
      InputError: it or something that it needs is not installed; `install` is the command.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"this judge needs {name} ({error}): {install}") from error
