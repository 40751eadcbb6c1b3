"""Speech tokens to mel frames behind a prompt, as one request of one voice."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer import buckets
from cosyjax.infer.acoustic import tokens_to_mel
from cosyjax.infer.acoustic_stream import flow_noise
from cosyjax.infer.speak import Conditions
from cosyjax.infer.stages import Stages


class FlowCall(NamedTuple):
    """What the flow is asked for."""

    num_tokens: int  # of the request, from its first one
    num_spoken: int  # of these, that earlier chunks spoke
    streaming: bool  # attention under the chunk mask
    finalize: bool  # no more will follow: nothing is held back as look-ahead


def whole(num_tokens: int) -> FlowCall:
    """The call that speaks all tokens at once under the full mask."""
    return FlowCall(num_tokens, 0, streaming=False, finalize=True)


def flow_frames(
    stages: Stages,
    conditions: Conditions,
    tokens: np.ndarray,
    call: FlowCall,
    *,
    noise: Any = None,
    key: jax.Array | None = None,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
) -> np.ndarray:
    """Runs the flow over the prompt and the first `call.num_tokens` tokens.

    Args:
      stages: the flow is used.
      conditions: prompt tokens, prompt mel and speaker.
      tokens: [T] int32 speech tokens.
      call: what to speak.
      noise: [frames, 80] starting noise; None draws it from `key`.
      key: decides the noise where there is none.
      num_steps: Euler steps; None for those of the flow's config.
      guidance_scale: None for that of the flow's config.

    Returns:
      [F, 80] mel of the tokens spoken. The prompt is cut off by the length of its mel, as in the
      official code, which need not be twice that of its tokens.
    """
    given = np.concatenate([conditions.flow_tokens, tokens[: call.num_tokens]])
    size = buckets.bucket(len(given), buckets.SPEECH_TOKENS, "speech tokens with the prompt")
    num_frames = shapes.FRAMES_PER_TOKEN * size
    prompt_mel = buckets.pad_to(conditions.flow_mel, num_frames)
    mel = tokens_to_mel(
        stages.flow.model,
        stages.flow.params,
        speech_tokens=buckets.pad_to(given, size)[None],
        num_tokens=jnp.array([len(given)], jnp.int32),
        prompt_mel=prompt_mel[None],
        speaker_embedding=np.asarray(conditions.speaker_embedding).reshape(1, -1),
        noise=_noise(noise, key, num_frames, conditions.flow_mel),
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        streaming=call.streaming,
        finalize=call.finalize,
    )
    held = 0 if call.finalize else stages.flow.model.config.encoder.lookahead
    stop = shapes.FRAMES_PER_TOKEN * (len(given) - held)
    return np.asarray(mel)[0, len(conditions.flow_mel) : stop]


def _noise(noise: Any, key: jax.Array | None, num_frames: int, prompt_mel: np.ndarray) -> Any:
    """[1, F, M] starting noise; that of the prompt is the same for all requests."""
    if noise is not None:
        return buckets.pad_to(noise[:num_frames], num_frames)
    if key is None:
        raise InputError("the flow starts from noise: give `noise` or `key`")
    num_prompt, num_mels = np.asarray([len(prompt_mel)], np.int32), prompt_mel.shape[1]
    return _drawn(None, key[None], np.arange(num_frames)[None], num_prompt, num_mels)


_drawn = jax.jit(flow_noise, static_argnums=4)
