"""The official method names over `Synthesizer`, so that existing programs move over.

    model = CosyVoice2("bundle")
    for chunk in model.inference_zero_shot("Hello.", "Transcript.", "prompt.wav"):
        chunk["tts_speech"]  # [1, N] float32 at model.sample_rate

Each method yields one dictionary per piece of text or, with `stream=True`, per chunk of audio under
the official schedule (growing chunks, the last one under the full mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import bundle, shipped, synthesize
from cosyjax.infer import voice as voices
from cosyjax.infer.voice import Voice

Chunks = Iterator[dict[str, np.ndarray]]
UNNAMED = "prompt"


class CosyVoice2:
    """The face of the official class. Registered voices are the only thing a call changes."""

    def __init__(self, model_dir: Path | str, *, dtype: str | None = None) -> None:
        self.synthesizer = synthesize.load(model_dir, dtype=dtype)
        self.sample_rate = self.synthesizer.sample_rate_hz
        self.model_dir = shipped.find_bundle(model_dir)
        self._registered: dict[str, Voice] = {}

    def list_available_spks(self) -> list[str]:
        """Names of the bundle's voices and of those added since."""
        return sorted({*self.synthesizer.voices(), *self._registered})

    def add_zero_shot_spk(
        self, prompt_text: str, prompt_wav: Path | str, zero_shot_spk_id: str
    ) -> bool:
        """Encodes a prompt once under a name; True when done."""
        if not zero_shot_spk_id:
            raise InputError("zero_shot_spk_id is empty; give the voice a name")
        made = self.synthesizer.clone(prompt_wav, prompt_text, name=zero_shot_spk_id)
        self._registered[zero_shot_spk_id] = made
        return True

    def save_spkinfo(self) -> None:
        """Writes the added voices into the bundle's `voices/` folder."""
        for name, voice in self._registered.items():
            voices.save_voice(voice, bundle.voice_path(self.model_dir / "voices", name))

    def inference_sft(
        self,
        tts_text: str,
        spk_id: str,
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Chunks:
        """Speaks with a voice's embedding alone."""
        voice = self._find(spk_id)
        return self._speak(tts_text, voice, "sft", stream=stream, speed=speed, front=text_frontend)

    def inference_zero_shot(
        self,
        tts_text: str,
        prompt_text: str,
        prompt_wav: Path | str | None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Chunks:
        """Continues a prompt recording whose transcript is known."""
        voice = self._prompted(prompt_text, prompt_wav, zero_shot_spk_id)
        return self._speak(
            tts_text, voice, "zero_shot", stream=stream, speed=speed, front=text_frontend
        )

    def inference_cross_lingual(
        self,
        tts_text: str,
        prompt_wav: Path | str | None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Chunks:
        """Speaks in the prompt's voice without showing the prompt to the LM."""
        voice = self._prompted("", prompt_wav, zero_shot_spk_id)
        return self._speak(
            tts_text, voice, "cross_lingual", stream=stream, speed=speed, front=text_frontend
        )

    def inference_instruct2(
        self,
        tts_text: str,
        instruct_text: str,
        prompt_wav: Path | str | None,
        zero_shot_spk_id: str = "",
        stream: bool = False,
        speed: float = 1.0,
        text_frontend: bool = True,
    ) -> Chunks:
        """Speaks in the prompt's voice, following an instruction in words."""
        voice = self._prompted("", prompt_wav, zero_shot_spk_id)
        return self._speak(
            tts_text,
            voice,
            "instruct",
            stream=stream,
            speed=speed,
            front=text_frontend,
            instruct=instruct_text,
        )

    def inference_vc(
        self,
        source_wav: Path | str,
        prompt_wav: Path | str,
        stream: bool = False,
        speed: float = 1.0,
    ) -> Chunks:
        """Speaks a recording again in the prompt's voice."""
        voice = self._prompted("", prompt_wav, "")
        if stream:
            _refuse_speed(speed)
            for wav in self.synthesizer.convert_chunks(source_wav, voice):
                yield {"tts_speech": wav[None]}
            return
        spoken = self.synthesizer.convert_voice(source_wav, voice, speed=speed)
        yield {"tts_speech": spoken.wav[None]}

    def _find(self, name: str) -> Voice:
        return self._registered.get(name) or self.synthesizer.voice(name)

    def _prompted(self, text: str, wav: Path | str | None, name: str) -> Voice:
        if name:
            return self._find(name)
        if not wav:
            raise InputError("neither prompt_wav nor zero_shot_spk_id is given; give one of them")
        return self.synthesizer.clone(wav, text, name=UNNAMED)

    def _speak(
        self,
        text: str,
        voice: Voice,
        mode: str,
        *,
        stream: bool,
        speed: float,
        front: bool,
        instruct: str = "",
    ) -> Chunks:
        pieces = self.synthesizer.pieces(text, normalized=not front)
        conditions = self.synthesizer.conditions(voice, mode, instruct)
        if stream:
            _refuse_speed(speed)
            for wav in self.synthesizer.speak_chunks(pieces, conditions):
                yield {"tts_speech": wav[None]}
            return
        for _, wav in self.synthesizer.speak_pieces(pieces, conditions, speed=speed):
            yield {"tts_speech": wav[None]}


def _refuse_speed(speed: float) -> None:
    if speed != 1.0:
        raise InputError(f"speed={speed} cannot be had with stream=True; use speed=1")
