"""`spk2info.pt`, the official list of speakers, to voices and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax import shapes
from cosyjax.convert import torch_files
from cosyjax.errors import InputError
from cosyjax.infer.voice import Voice
from cosyjax.text.tokenizer import TextTokenizer

_TOKENS = ("llm_prompt_speech_token", "flow_prompt_speech_token")
_EMBEDDINGS = ("embedding", "flow_embedding", "llm_embedding")


def read_voices(path: Path, tokenizer: TextTokenizer) -> dict[str, Voice]:
    """Reads {name: Voice}.

    Entries made for sft hold an embedding; entries made by the official `add_zero_shot_spk` hold
    the whole prompt, its text as ids (the transcript is decoded from them).

    Raises:
      InputError: an unreadable file or an entry that is neither, naming it.
    """
    entries = torch_files.read_object(path)
    if not isinstance(entries, Mapping):
        raise InputError(f"{path}: holds a {type(entries).__name__}; {{name: entry}} is needed")
    return {str(name): _voice(str(name), e, tokenizer, path) for name, e in entries.items()}


def _voice(name: str, entry: Any, tokenizer: TextTokenizer, path: Path) -> Voice:
    where = f"{path}: speaker {name!r}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is a {type(entry).__name__}; a dictionary is needed")
    arrays = {key: _array(value) for key, value in entry.items()}
    embeddings = [arrays[key].reshape(-1) for key in _EMBEDDINGS if key in arrays]
    if not embeddings:
        raise InputError(f"{where} has no {' or '.join(_EMBEDDINGS[:2])}")
    shapes.check(embeddings[0], str(shapes.SPEAKER_DIM), f"{where}: embedding")
    embedding = embeddings[0].astype(np.float32)
    if any(not np.array_equal(embedding, other) for other in embeddings[1:]):
        raise InputError(f"{where}: its embeddings differ from each other; one voice has one")
    if _TOKENS[1] not in arrays:
        return Voice(name=name, speaker_embedding=embedding)
    return _prompted(name, arrays, embedding, tokenizer, where)


def _prompted(
    name: str,
    arrays: Mapping[str, np.ndarray],
    embedding: np.ndarray,
    tokenizer: TextTokenizer,
    where: str,
) -> Voice:
    missing = [k for k in ("prompt_text", *_TOKENS, "prompt_speech_feat") if k not in arrays]
    if missing:
        raise InputError(f"{where} has no {', '.join(missing)}")
    for_lm, for_flow = (arrays[key].reshape(-1).astype(np.int32) for key in _TOKENS)
    if not np.array_equal(for_lm, for_flow):
        raise InputError(f"{where}: LM and flow have different prompt tokens; one voice has one")
    if for_lm.size and not 0 <= for_lm.min() <= for_lm.max() < shapes.CODEBOOK_SIZE:
        raise InputError(f"{where}: prompt tokens outside of 0 to {shapes.CODEBOOK_SIZE - 1}")
    ids = tuple(int(index) for index in arrays["prompt_text"].reshape(-1))
    return Voice(
        name=name,
        speaker_embedding=embedding,
        prompt_text=tokenizer.decode(list(ids)),
        speech_tokens=for_lm,
        prompt_mel=arrays["prompt_speech_feat"].reshape(-1, shapes.NUM_MELS).astype(np.float32),
        prompt_text_tokens=ids,
    )


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def write_voices(path: Path, voices: Mapping[str, Voice], tokenizer: TextTokenizer) -> None:
    """Writes voices as the official front end saves them."""
    entries = {name: _entry(voice, tokenizer) for name, voice in voices.items()}
    torch_files.write_object(path, entries)


def _entry(voice: Voice, tokenizer: TextTokenizer) -> dict[str, Any]:
    tensor = torch_files.to_torch
    embedding = tensor(voice.speaker_embedding.astype(np.float32)[None])
    if not voice.has_prompt:
        return {"embedding": embedding}
    ids = voice.prompt_text_tokens
    text = np.asarray(tokenizer.encode(voice.prompt_text) if ids is None else ids, np.int32)
    tokens = tensor(voice.speech_tokens.astype(np.int32)[None])
    length = lambda values: tensor(np.array([len(values)], np.int32))
    return {
        "prompt_text": tensor(text[None]),
        "prompt_text_len": length(text),
        "llm_prompt_speech_token": tokens,
        "llm_prompt_speech_token_len": length(voice.speech_tokens),
        "flow_prompt_speech_token": tokens,
        "flow_prompt_speech_token_len": length(voice.speech_tokens),
        "prompt_speech_feat": tensor(voice.prompt_mel.astype(np.float32)[None]),
        "prompt_speech_feat_len": length(voice.prompt_mel),
        "llm_embedding": embedding,
        "flow_embedding": embedding,
    }
