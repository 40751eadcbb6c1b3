"""Listening to a language model in training: its speech tokens through a bundle's flow."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from cosyjax.errors import InputError, nearest
from cosyjax.infer import chunks, speak
from cosyjax.infer.bundle import Bundle, load_bundle
from cosyjax.infer.compute import make_plan
from cosyjax.infer.decode import prepare_for_decode
from cosyjax.infer.speak import SynthesisConfig
from cosyjax.infer.stages import Stage, Stages, make_stages
from cosyjax.infer.voice import Voice
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from cosyjax.ops.interleave import TEXT
from cosyjax.train.task import Batch, Sample


def speak_texts(
    config: TextSpeechLMConfig,
    params: Any,
    texts: list[np.ndarray],
    *,
    bundle: str,
    voice: str,
    key: jax.Array,
) -> list[Sample]:
    """Speaks texts with a language model and the flow and vocoder of a bundle.

    Args:
      config: sizes of the language model, as they stand in a bundle.
      params: its canonical tree, unboxed.
      texts: [S] int32 each.
      bundle: folder.
      voice: name of a voice in it, whose embedding alone is used; "" for the first, or for an
        embedding of zeros where the bundle has none.
      key: decides every draw.

    Returns:
      A sample per text; none for a text at which the model stopped at once.

    Raises:
      InputError: no such voice, or a bundle with another codebook.
    """
    opened, stages = _load(bundle)
    if opened.config.flow.vocab_size < config.codebook_size:
        raise InputError(
            f"{bundle} knows {opened.config.flow.vocab_size} speech tokens and the model "
            f"{config.codebook_size}; give a bundle with the same speech tokenizer"
        )
    ready, sized = prepare_for_decode(params, config)
    filled = Stages(Stage(TextSpeechLM(sized), ready), stages.flow, stages.vocoder)
    conditions = speak.make_conditions(find_voice(opened, bundle, voice), "sft", [])
    numbers, sampling = SynthesisConfig(), opened.config.sampling
    made = []
    for index, text in enumerate(texts):
        row_key = jax.random.fold_in(key, index)
        tokens = speak.text_to_tokens(filled, text, conditions, row_key, sampling, numbers)
        if tokens.size:
            wav = chunks.tokens_to_wav(
                filled, tokens, conditions, row_key, opened.noise, config=numbers
            )
            made.append(Sample(f"text{index}", wav, opened.config.vocoder.sample_rate_hz))
    return made


def first_texts(batch: Batch, count: int) -> list[np.ndarray]:
    """The text tokens of the first sequence of each of the first rows that hold one."""
    ids, kinds = np.asarray(batch["ids"]), np.asarray(batch["kinds"])
    picked = (kinds == TEXT) & (np.asarray(batch["segment_ids"]) == 1)
    texts = [row[mask].astype(np.int32) for row, mask in zip(ids, picked) if mask.any()]
    return texts[:count]


def find_voice(opened: Bundle, path: str, name: str) -> Voice:
    """The voice that samples have."""
    known = sorted(opened.voices)
    if name and name not in known:
        hint = nearest(name, known) if known else "the bundle has none"
        raise InputError(f"{path} has no voice {name!r}: {hint}")
    if known:
        return opened.voices[name or known[0]]
    return Voice("nobody", np.zeros(opened.config.flow.speaker_dim, np.float32))


@functools.lru_cache(maxsize=1)
def _load(path: str) -> tuple[Bundle, Stages]:
    names = ("flow", "vocoder")
    opened = load_bundle(path, modules=names)
    # Copied: what is prepared is taken out of the mapping.
    return opened, make_stages(opened.config, dict(opened.params), make_plan(None), names)
