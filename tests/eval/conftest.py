"""Judges that need no package: they know the clips that these tests make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from cosyjax.eval import judges, text_norm


@pytest.fixture()
def normalizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for whisper-normalizer: English loses its full stops, the rest its case alone."""
    basic, english = ModuleType("whisper_normalizer.basic"), ModuleType("english")
    basic.BasicTextNormalizer = lambda: str.lower
    english.EnglishTextNormalizer = lambda: lambda text: text.lower().replace(".", "")
    package = ModuleType("whisper_normalizer")
    for name, module in (("", package), (".basic", basic), (".english", english)):
        monkeypatch.setitem(sys.modules, "whisper_normalizer" + name, module)
    text_norm._word_normalizer.cache_clear()
    yield
    text_norm._word_normalizer.cache_clear()


class LengthReader:
    """Reads a clip by its length in tenths of a second."""

    name = "length reader"

    def __init__(self, texts: dict[int, str]) -> None:
        self.texts = texts

    def transcribe(self, wav_16k: np.ndarray, lang: str) -> str:
        return self.texts[round(len(wav_16k) / 1600)]


class PitchEar:
    """Embeds a tone by its pitch."""

    name = "pitch ear"

    def embed(self, wav_16k: np.ndarray) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(wav_16k, 16_000))
        return np.array([spectrum[200:300].sum(), spectrum[600:700].sum()])


class Level:
    """Scores a clip by its peak."""

    name = "level"

    def score(self, wav_16k: np.ndarray) -> dict[str, float]:
        return {"mos": 5.0 * float(np.max(np.abs(wav_16k)))}


@pytest.fixture()
def fakes(monkeypatch: pytest.MonkeyPatch, normalizer: None) -> dict[int, str]:
    """Registers "reader", "ear" and "level"; returns what the reader reads, to be filled."""
    texts: dict[int, str] = {}
    for table, name, judge in (
        (judges.RECOGNIZERS, "reader", LengthReader(texts)),
        (judges.SPEAKERS, "ear", PitchEar()),
        (judges.MOS, "level", Level()),
    ):
        monkeypatch.setitem(table, name, lambda model, judge=judge: judge)
    return texts
