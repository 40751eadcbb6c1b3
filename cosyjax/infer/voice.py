"""A voice: what the prompt recording leaves behind, reusable without the recording.

One safetensors file holds the arrays; its metadata holds name, transcript and consent note.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError

FORMAT = "cosyjax-voice-1"


@dataclasses.dataclass(frozen=True)
class Voice:
    """The zero-shot reference of one speaker.

    A voice without a prompt (as in the official `sft` mode) holds the embedding alone.
    """

    name: str
    speaker_embedding: np.ndarray  # [192] float32, as the encoder gives it (not normalised)
    prompt_text: str = ""  # transcript of the prompt, as spoken
    speech_tokens: np.ndarray = dataclasses.field(  # [T] int32
        default_factory=lambda: np.zeros(0, np.int32)
    )
    prompt_mel: np.ndarray = dataclasses.field(  # [2T, 80] float32 log-mel at 50 Hz
        default_factory=lambda: np.zeros((0, shapes.NUM_MELS), np.float32)
    )
    prompt_text_tokens: tuple[int, ...] | None = None  # where only the ids are known
    note: str = ""  # origin and consent
    lang: str = ""  # of the prompt, two letters; "" where nobody said

    def __post_init__(self) -> None:
        shapes.check(self.speaker_embedding, "D", "speaker_embedding")
        shapes.check(self.prompt_mel, "F M", "prompt_mel")
        frames = shapes.FRAMES_PER_TOKEN * len(self.speech_tokens)
        if len(self.prompt_mel) not in (0, frames):
            raise InputError(
                f"voice {self.name!r}: {len(self.prompt_mel)} prompt frames do not fit "
                f"{len(self.speech_tokens)} speech tokens; {frames} frames are needed"
            )

    @property
    def has_prompt(self) -> bool:
        """Whether the voice can be cloned in context (speech tokens and mel are there)."""
        return len(self.speech_tokens) > 0


def save_voice(voice: Voice, path: Path) -> None:
    """Writes a voice atomically; `path` should end in .safetensors."""
    from cosyjax.io import files

    meta = {
        "format": FORMAT,
        "name": voice.name,
        "prompt_text": voice.prompt_text,
        "note": voice.note,
        "lang": voice.lang,
    }
    if voice.prompt_text_tokens is not None:
        meta["prompt_text_tokens"] = json.dumps(list(voice.prompt_text_tokens))
    arrays = {
        "speaker_embedding": np.asarray(voice.speaker_embedding, np.float32),
        "speech_tokens": np.asarray(voice.speech_tokens, np.int32),
        "prompt_mel": np.asarray(voice.prompt_mel, np.float32),
    }
    files.save_arrays(path, arrays, metadata=meta)


def load_voice(path: Path) -> Voice:
    """Reads a voice file; raises InputError for anything else."""
    from cosyjax.io import files

    arrays, meta = files.load_arrays(path)
    if meta.get("format") != FORMAT:
        raise InputError(f"{path}: not a voice file; make one with `cosyjax clone`")
    ids = meta.get("prompt_text_tokens")
    return Voice(
        name=meta.get("name", path.stem),
        prompt_text=meta.get("prompt_text", ""),
        note=meta.get("note", ""),
        lang=meta.get("lang", ""),
        prompt_text_tokens=None if ids is None else tuple(json.loads(ids)),
        **arrays,
    )
