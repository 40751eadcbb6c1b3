"""What `cosyjax bench` times: one case per stage, on full-size models with random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.eval.random_bundle import random_params
from cosyjax.infer import chunks, frames, speak
from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.compute import ComputePlan
from cosyjax.infer.decode import SamplingConfig, generate
from cosyjax.infer.embed_speaker import embed_speaker
from cosyjax.infer.stages import TABLE, make_stages
from cosyjax.infer.tokenize_speech import tokenize_speech
from cosyjax.infer.vocode import mel_to_wav

PREFILL_POSITIONS = 109
DECODE_TOKENS = 60
SPEECH_SECONDS = 3
PROMPT_SECONDS = 10
Work = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One timed piece of work.

    `recorded_s` is the official PyTorch module's time on a quiet two-core machine with AMX,
    2 threads, float32: a figure from a record, not from this run.
    """

    what: str
    make: Callable[[BundleConfig, ComputePlan], Work]
    modules: tuple[str, ...]  # whose weights are drawn
    amount: float
    unit: str
    recorded_s: float | None = None


def _stages(config: BundleConfig, plan: ComputePlan, modules: tuple[str, ...]) -> Any:
    """Stages of the named modules only; the others stay empty and take no memory."""
    names = [name for name, row in TABLE.items() if row[0] in modules]
    return make_stages(config, random_params(config, modules), plan, names)


def _tokenizer(config: BundleConfig, plan: ComputePlan) -> Work:
    stage = _stages(config, plan, ("speech_tokenizer",)).speech_tokenizer
    num_frames = 100 * PROMPT_SECONDS
    mel = np.random.default_rng(0).standard_normal((1, num_frames, 128), np.float32)
    lengths = np.array([num_frames], np.int32)
    return lambda: tokenize_speech(stage.model, stage.params, mel, lengths)


def _speaker(config: BundleConfig, plan: ComputePlan) -> Work:
    stage = _stages(config, plan, ("speaker_encoder",)).speaker_encoder
    num_samples = shapes.TOKENIZER_RATE_HZ * PROMPT_SECONDS
    wav = 0.1 * np.random.default_rng(0).standard_normal((1, num_samples), np.float32)
    lengths = np.array([num_samples], np.int32)
    return lambda: embed_speaker(stage.model, stage.params, wav, lengths)


def _lm(config: BundleConfig, plan: ComputePlan, num_tokens: int) -> Work:
    stage = _stages(config, plan, ("text_speech_lm",)).lm
    num_text = PREFILL_POSITIONS - 2
    one = lambda n: jnp.array([n], jnp.int32)
    return lambda: generate(
        stage.model,
        stage.params,
        prefill=stage.prefill,
        text_tokens=jnp.arange(num_text, dtype=jnp.int32)[None],
        num_text=one(num_text),
        prompt_speech=jnp.zeros((1, 0), jnp.int32),
        num_prompt_speech=one(0),
        min_tokens=one(num_tokens),
        max_tokens=one(num_tokens),
        key=jax.random.key(0),
        sampling=SamplingConfig(),
        max_length=max(num_tokens, 1),
    )


def _conditions(config: BundleConfig, prompt_s: int) -> speak.Conditions:
    stream = np.random.default_rng(0)
    num_tokens = shapes.TOKEN_RATE_HZ * prompt_s
    mel = stream.standard_normal((2 * num_tokens, shapes.NUM_MELS), np.float32)
    prompt = stream.integers(0, config.flow.vocab_size, num_tokens).astype(np.int32)
    embedding = stream.standard_normal(shapes.SPEAKER_DIM, np.float32)
    return speak.Conditions(speak.NO_TOKENS, speak.NO_TOKENS, prompt, mel, embedding)


def _flow(config: BundleConfig, plan: ComputePlan, prompt_s: int) -> Work:
    stages = _stages(config, plan, ("flow",))
    conditions = _conditions(config, prompt_s)
    tokens = np.arange(shapes.TOKEN_RATE_HZ * SPEECH_SECONDS, dtype=np.int32)
    call, key = frames.whole(len(tokens)), jax.random.key(0)
    return lambda: frames.flow_frames(stages, conditions, tokens, call, key=key)


def _vocoder(config: BundleConfig, plan: ComputePlan) -> Work:
    stage = _stages(config, plan, ("vocoder",)).vocoder
    num_frames = 50 * SPEECH_SECONDS
    shape = (1, num_frames, shapes.NUM_MELS)
    mel = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    lengths, key = jnp.array([num_frames], jnp.int32), jax.random.key(0)
    return lambda: mel_to_wav(stage.model, stage.params, mel, lengths, key)


def _end_to_end(config: BundleConfig, plan: ComputePlan) -> Work:
    stages = _stages(config, plan, ("text_speech_lm", "flow", "vocoder"))
    conditions = _conditions(config, 3)
    # Random weights end anywhere: the ratios pin the length to 3 s of speech.
    synthesis = speak.SynthesisConfig(
        min_tokens_per_text_token=5.0, max_tokens_per_text_token=5.0, max_retries=0
    )
    text = np.arange(15, dtype=np.int32)
    key = jax.random.key(0)

    def run() -> np.ndarray:
        made = speak.text_to_tokens(stages, text, conditions, key, SamplingConfig(), synthesis)
        tokens = np.resize(np.minimum(made, config.flow.vocab_size - 1), 75)
        return chunks.tokens_to_wav(stages, tokens, conditions, key, None, config=synthesis)

    return run


CASES: dict[str, Case] = {
    "tokenizer": Case("10 s of log-mel", _tokenizer, ("speech_tokenizer",), 10, "s audio", 0.37),
    "speaker": Case("10 s of audio", _speaker, ("speaker_encoder",), 10, "s audio", 0.11),
    "lm_prefill": Case(
        f"{PREFILL_POSITIONS} positions",
        lambda config, plan: _lm(config, plan, 0),
        ("text_speech_lm",),
        PREFILL_POSITIONS,
        "positions",
        0.61,
    ),
    "lm_decode": Case(
        f"{DECODE_TOKENS} tokens after {PREFILL_POSITIONS} positions",
        lambda config, plan: _lm(config, plan, DECODE_TOKENS),
        ("text_speech_lm",),
        DECODE_TOKENS,
        "tokens",
        0.61 + DECODE_TOKENS / 11.77,
    ),
    "flow": Case(
        "3 s, 10 steps, guidance",
        lambda config, plan: _flow(config, plan, 0),
        ("flow",),
        SPEECH_SECONDS,
        "s audio",
        2.72,
    ),
    "flow_prompt": Case(
        "3 s after a 3 s prompt",
        lambda config, plan: _flow(config, plan, 3),
        ("flow",),
        SPEECH_SECONDS,
        "s audio",
        5.32,
    ),
    "vocoder": Case("3 s (150 frames)", _vocoder, ("vocoder",), SPEECH_SECONDS, "s audio", 0.49),
    "end_to_end": Case(
        "3 s of speech from text tokens, 3 s prompt",
        _end_to_end,
        ("text_speech_lm", "flow", "vocoder"),
        SPEECH_SECONDS,
        "s audio",
    ),
}
