"""Speech tokens to audio: in one piece, or in chunks while the LM still decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.infer import buckets, decode, official_stream, speak
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.speak import Conditions, SynthesisConfig
from cosyjax.infer.stages import Stages

TOKENS_PER_CALL = 25  # the controller's first hop: no chunk waits for more than it needs


def decode_pieces(
    stages: Stages,
    text_tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    sampling: SamplingConfig,
    config: SynthesisConfig,
) -> Iterator[np.ndarray]:
    """Yields the speech tokens of one piece of text as they are drawn, 25 at a time.

    They are the tokens that `speak.text_to_tokens` gives for the same key, as long as the runaway
    guard does not make it draw again.
    """
    text = np.concatenate([conditions.lm_text_tokens, text_tokens])
    fewest, most = speak.token_limits(len(text_tokens), config)
    state = decode.start(
        stages.lm.model,
        stages.lm.params if stages.lm.prefill is None else stages.lm.prefill,
        speak.lm_prompt(text, conditions.lm_speech_tokens),
        (jnp.array([fewest], jnp.int32), jnp.array([most], jnp.int32)),
        jax.random.fold_in(key, speak.LM_STREAM),
        max_length=buckets.bucket(most, buckets.MAX_TOKENS, "speech tokens"),
        sampling=sampling,
    )
    num_given = 0
    while True:
        num_drawn = int(state.num_tokens[0])
        yield np.asarray(state.tokens[0, num_given:num_drawn])
        num_given = num_drawn
        if bool(state.done[0]):
            return
        state = decode.decode_chunk(
            stages.lm.model, stages.lm.params, state, TOKENS_PER_CALL, sampling=sampling
        )


def speak_chunks(
    stages: Stages,
    text_tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    noise: Any,
    *,
    sampling: SamplingConfig,
    config: SynthesisConfig,
) -> Iterator[np.ndarray]:
    """Yields waveforms [N] at 24 kHz that follow one another; see `official_stream`."""
    pieces = decode_pieces(stages, text_tokens, conditions, key, sampling, config)
    yield from tokens_to_chunks(stages, pieces, conditions, key, noise, config)


def tokens_to_chunks(
    stages: Stages,
    pieces: Iterable[np.ndarray],
    conditions: Conditions,
    key: jax.Array,
    noise: Any,
    config: SynthesisConfig,
) -> Iterator[np.ndarray]:
    """Yields waveforms [N] for speech tokens that come in pieces."""
    schedule = _schedule(config)
    chunks = official_stream.stream(
        stages, conditions, pieces, noise=noise, key=key, config=schedule
    )
    for chunk in chunks:
        yield chunk.wav


def tokens_to_wav(
    stages: Stages,
    tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    noise: Any,
    *,
    speed: float = 1.0,
    config: SynthesisConfig = SynthesisConfig(),
) -> np.ndarray:
    """Speaks tokens in one chunk: flow under the full mask, then the vocoder.

    Args:
      stages: the models.
      tokens: [T] int32 speech tokens; none give no audio.
      conditions: the voice.
      key: decides the vocoder's noise, and the flow's where `noise` is None.
      noise: [frames, 80] fixed noise of the bundle, or None.
      speed: above 1 is faster; the mel is stretched, the pitch stays.
      config: solver steps and guidance.

    Returns:
      [N] float32 at 24 kHz.
    """
    if len(tokens) == 0:
        return np.zeros(0, np.float32)
    inputs: dict[str, Any] = {"noise": noise, "key": key, "speed": speed}
    whole = official_stream.speak_whole(
        stages, conditions, tokens, config=_schedule(config), **inputs
    )
    return whole.wav


def _schedule(config: SynthesisConfig) -> official_stream.OfficialStreamConfig:
    return official_stream.OfficialStreamConfig(
        num_steps=config.num_steps, guidance_scale=config.guidance_scale
    )
