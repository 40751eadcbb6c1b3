"""One piece of text to speech tokens, and what each official mode hands to which stage."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError, nearest
from cosyjax.infer import buckets
from cosyjax.infer.decode import Generated, SamplingConfig, generate
from cosyjax.infer.stages import Stages
from cosyjax.infer.voice import Voice

MODES = ("zero_shot", "cross_lingual", "instruct", "sft")
LM_STREAM, VOCODER_STREAM, NOISE_STREAM, RETRY_STREAM = range(4)
NO_TOKENS = np.zeros(0, np.int32)
NO_MEL = np.zeros((0, shapes.NUM_MELS), np.float32)


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """Numbers of whole-utterance synthesis; the defaults are the official ones."""

    min_tokens_per_text_token: float = 2.0
    max_tokens_per_text_token: float = 20.0
    num_steps: int = 10  # Euler steps of the flow
    guidance_scale: float = 0.7
    max_retries: int = 1  # new draws after the runaway guard stopped the LM


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the LM and the flow see of a voice."""

    lm_text_tokens: np.ndarray  # [S] before the text to speak
    lm_speech_tokens: np.ndarray  # [T] that the LM continues
    flow_tokens: np.ndarray  # [T] of the prompt
    flow_mel: np.ndarray  # [2T, 80] of the prompt
    speaker_embedding: np.ndarray  # [192]


def default_mode(voice: Voice) -> str:
    """zero_shot with a transcribed prompt, cross_lingual with an untranscribed one, else sft."""
    if not voice.has_prompt:
        return "sft"
    transcribed = bool(voice.prompt_text) or voice.prompt_text_tokens is not None
    return "zero_shot" if transcribed else "cross_lingual"


def make_conditions(voice: Voice, mode: str, text_tokens: list[int]) -> Conditions:
    """Chooses what each stage sees.

    Args:
      voice: the speaker.
      mode: "zero_shot" (LM and flow continue the prompt), "cross_lingual" (only the flow sees it),
        "instruct" (the LM reads an instruction instead), "sft" (the embedding alone).
      text_tokens: tokens of the transcript (zero_shot) or of the instruction (instruct).

    Raises:
      InputError: an unknown mode, or a voice without a prompt where one is needed.
    """
    if mode not in MODES:
        raise InputError(f"mode={mode!r}; {nearest(mode, MODES)}")
    if mode == "zero_shot" and not (voice.has_prompt and text_tokens):
        raise InputError(
            f"voice {voice.name!r} has no transcribed prompt, so it cannot be continued; "
            "make it with a transcript, or use mode='cross_lingual' or 'sft'"
        )
    if mode in ("cross_lingual", "instruct") and not voice.has_prompt:
        raise InputError(f"voice {voice.name!r} has no prompt; use mode='sft'")
    prompt = voice.speech_tokens if mode != "sft" else NO_TOKENS
    return Conditions(
        lm_text_tokens=np.asarray(
            text_tokens if mode in ("zero_shot", "instruct") else [], np.int32
        ),
        lm_speech_tokens=voice.speech_tokens if mode == "zero_shot" else NO_TOKENS,
        flow_tokens=prompt,
        flow_mel=voice.prompt_mel if mode != "sft" else NO_MEL,
        speaker_embedding=voice.speaker_embedding,
    )


def text_to_tokens(
    stages: Stages,
    text_tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    sampling: SamplingConfig,
    config: SynthesisConfig,
) -> np.ndarray:
    """Decodes the speech tokens of one piece.

    Args:
      stages: the models.
      text_tokens: [S] of the piece, not empty.
      conditions: the voice.
      key: decides every draw; the same key gives the same tokens.
      sampling: how tokens are drawn.
      config: length ratios and retries.

    Returns:
      [T] int32, without stop tokens; empty if the LM stopped at once.
    """
    for attempt in range(config.max_retries + 1):
        salt = LM_STREAM if attempt == 0 else RETRY_STREAM + attempt
        made = _generate(
            stages,
            np.concatenate([conditions.lm_text_tokens, text_tokens]),
            conditions.lm_speech_tokens,
            jax.random.fold_in(key, salt),
            sampling,
            limits=token_limits(len(text_tokens), config),
        )
        if not bool(made.runaway[0]):
            break
    return np.asarray(made.tokens)[0, : int(made.num_tokens[0])]


def _generate(
    stages: Stages,
    text: np.ndarray,
    prompt: np.ndarray,
    key: jax.Array,
    sampling: SamplingConfig,
    *,
    limits: tuple[int, int],
) -> Generated:
    text_tokens, num_text, prompt_speech, num_prompt_speech = lm_prompt(text, prompt)
    return generate(
        stages.lm.model,
        stages.lm.params,
        prefill=stages.lm.prefill,
        text_tokens=text_tokens,
        num_text=num_text,
        prompt_speech=prompt_speech,
        num_prompt_speech=num_prompt_speech,
        min_tokens=jnp.array(limits[:1], jnp.int32),
        max_tokens=jnp.array(limits[1:], jnp.int32),
        key=key,
        sampling=sampling,
        max_length=buckets.bucket(limits[1], buckets.MAX_TOKENS, "speech tokens"),
    )


def lm_prompt(text: np.ndarray, prompt: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Pads text and prompt speech tokens to their buckets, as a batch of one with lengths."""
    num_text = buckets.bucket(len(text), buckets.TEXT_TOKENS, "text tokens")
    num_prompt = buckets.bucket(len(prompt), buckets.PROMPT_TOKENS, "prompt speech tokens")
    return (
        buckets.pad_to(text, num_text)[None].astype(np.int32),
        jnp.array([len(text)], jnp.int32),
        buckets.pad_to(prompt, num_prompt)[None].astype(np.int32),
        jnp.array([len(prompt)], jnp.int32),
    )


def token_limits(num_text: int, config: SynthesisConfig) -> tuple[int, int]:
    """(fewest, most) speech tokens for a piece of `num_text` text tokens.

    Differs: the official code has no limit beside the ratio; here a piece has at most 164 s.
    """
    most = int(config.max_tokens_per_text_token * num_text)
    fewest = int(config.min_tokens_per_text_token * num_text)
    return fewest, min(most, buckets.MAX_TOKENS[-1])
