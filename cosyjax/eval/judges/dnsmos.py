"""DNSMOS (P.835 and P.808) through `speechmos`, whose package brings the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import RATE_HZ, library

INSTALL = "pip install 'cosyjax[eval]'"
OPINIONS = {"ovrl": "ovrl_mos", "sig": "sig_mos", "bak": "bak_mos", "p808": "p808_mos"}


class DNSMOS:
    """The loaded predictors."""

    name = "dnsmos"

    def __init__(self, run: Any) -> None:
        self._run = run

    def score(self, wav_16k: np.ndarray) -> dict[str, float]:
        """[N] at 16 kHz to opinions on the whole, the speech, the background, and by P.808."""
        made = self._run(np.clip(wav_16k, -1.0, 1.0), sr=RATE_HZ)
        return {ours: float(made[theirs]) for ours, theirs in OPINIONS.items()}


def load(model: str) -> DNSMOS:
    """Loads the weights in the package.

    Raises:
      InputError: the package is missing.
    """
    if model:
        raise InputError(f"dnsmos has one model; {model!r} is not known")
    return DNSMOS(library("speechmos.dnsmos", INSTALL).run)
