"""ERes2Net through `modelscope`: a speaker embedding of the paper. Needs its hub."""

from __future__ import annotations

from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.eval.judges import library

INSTALL = "pip install 'modelscope[audio]'"
MODEL = "iic/speech_eres2net_sv_zh-cn_16k-common"


class ERes2Net:
    """A loaded pipeline of speaker verification."""

    def __init__(self, pipeline: Any, name: str) -> None:
        self._pipeline = pipeline
        self.name = f"modelscope {name}"

    def embed(self, wav_16k: np.ndarray) -> np.ndarray:
        """[N] at 16 kHz to a vector."""
        made = self._pipeline([wav_16k], output_emb=True)
        return np.asarray(made["embs"][0], np.float32)


def load(model: str) -> ERes2Net:
    """Opens a folder or a model of the hub.

    Raises:
      InputError: the package is missing, or the model cannot be had.
    """
    pipelines, name = library("modelscope.pipelines", INSTALL), model or MODEL
    try:
        return ERes2Net(pipelines.pipeline(task="speaker-verification", model=name), name)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"modelscope: no model {name!r}: {error}") from error
