"""Whisper in CTranslate2's form, through `faster-whisper`: a folder, or a model of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import InputError, nearest
from cosyjax.eval.judges import library

INSTALL = "pip install 'cosyjax[eval]'"
BEAM = 5
SEED = 0  # of the draws where the beam's best is doubtful and Whisper samples instead
# Whisper writes Chinese in the characters of its prompt; without one, in either script.
PROMPTS = {"zh": "以下是普通话的句子。"}


class Whisper:
    """A loaded model. Reads as Whisper's own scoring does: beam 5, each clip for itself."""

    def __init__(self, model: Any, name: str, reseed: Any) -> None:
        self._model, self._reseed = model, reseed
        self.name = f"faster-whisper {name}"

    def transcribe(self, wav_16k: np.ndarray, lang: str) -> str:
        """[N] at 16 kHz to text.

        Raises:
          InputError: a language that this model does not know.
        """
        self._reseed(SEED)  # so that a clip's text does not depend on the clips before it
        try:
            segments, _ = self._model.transcribe(
                wav_16k,
                language=lang,
                beam_size=BEAM,
                condition_on_previous_text=False,
                without_timestamps=True,
                initial_prompt=PROMPTS.get(lang),
            )
        except ValueError as error:
            raise InputError(f"{self.name} cannot read language {lang!r}: {error}") from error
        return "".join(segment.text for segment in segments).strip()


def load(model: str) -> Whisper:
    """Opens a folder, or downloads a model by its name (`large-v3`) or hub id.

    Raises:
      InputError: the package is missing, the folder holds no such model, or there is no such name.
    """
    faster_whisper = library("faster_whisper", INSTALL)
    backend = library("ctranslate2", INSTALL)
    if not model:
        raise InputError("faster-whisper: of which model? give a folder or a name: large-v3")
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "model.bin").is_file():
            raise InputError(
                f"{folder}: no CTranslate2 model there (no model.bin); make one with "
                "`ct2-transformers-converter --model openai/whisper-base --output_dir DIR "
                "--copy_files tokenizer.json preprocessor_config.json`"
            )
    elif folder.exists() or model.startswith(("/", "./", "../", "~")):
        raise InputError(f"{model}: not a folder; give a folder with a CTranslate2 Whisper")
    elif "/" not in model and model not in faster_whisper.available_models():
        names = faster_whisper.available_models()
        raise InputError(f"{model!r}: no such folder and no Whisper; {nearest(model, names)}")
    on_gpu = backend.get_cuda_device_count() > 0
    device, compute = ("cuda", "float16") if on_gpu else ("cpu", "int8")
    try:
        loaded = faster_whisper.WhisperModel(model, device=device, compute_type=compute)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{model}: cannot be opened as a Whisper model: {error}") from error
    return Whisper(
        loaded, folder.resolve().name if folder.is_dir() else model, backend.set_random_seed
    )
