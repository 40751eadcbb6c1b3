"""A voice whose prompt the flow has heard already, so that a stream in it starts with a copy.

Under the chunk mask chunks are counted from the prompt's start, and a token sees the `lookahead`
tokens after it. So the prompt is encoded up to its last chunk that sees nothing but the prompt; the
tokens after that one, the tail, are spoken with the first generated ones and not heard. A prompt
of k * mask_chunk + lookahead tokens has the shortest tail.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer import buckets
from cosyjax.infer.acoustic_state import AcousticModels, AcousticState, init_acoustic, reach, resize
from cosyjax.infer.acoustic_stream import prompt_step
from cosyjax.infer.speak import Conditions

PROMPT_CALL = 25  # tokens of the calls that encode a prompt, but for the last ones


class VoiceState(struct.PyTreeNode):
    """What every stream of a voice begins with."""

    acoustic: AcousticState  # of one row; its caches are as long as a bucket
    tail: jax.Array  # [tail] int32 the prompt's tokens that are not encoded, then zeros
    num_tail: int = struct.field(pytree_node=False)
    num_prompt: int = struct.field(pytree_node=False)  # tokens of the whole prompt


def voice_state(
    models: AcousticModels,
    params: Any,
    conditions: Conditions,
    *,
    noise: Any = None,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
) -> VoiceState:
    """Lets the flow hear a voice's prompt.

    Args:
      models: flow and vocoder.
      params: their parameters.
      conditions: prompt tokens, prompt mel and speaker.
      noise: [frames, M] fixed noise of the bundle, or None.
      num_steps: Euler steps of the streams to come; None for those of the flow's config.
      guidance_scale: of the streams to come; None for that of the flow's config.

    Raises:
      InputError: the mel does not have two frames for each token.
    """
    tokens, mel = np.asarray(conditions.flow_tokens, np.int32), np.asarray(conditions.flow_mel)
    num_frames = shapes.FRAMES_PER_TOKEN * len(tokens)
    if len(mel) != num_frames:
        raise InputError(
            f"a prompt of {len(tokens)} tokens has {len(mel)} mel frames; to stream, "
            f"{num_frames} are needed: clone the voice from its recording"
        )
    num_mels = models.flow.config.estimator.num_mels
    mel = mel.reshape(num_frames, num_mels)
    encoded = max(len(tokens) - models.lookahead, 0) // models.mask_chunk * models.mask_chunk
    room = reach(models, buckets.bucket(encoded, buckets.SPEECH_TOKENS, "prompt tokens"))
    ending = buckets.pad_to(mel, max(num_frames, shapes.FRAMES_PER_TOKEN * models.tail))
    if num_frames < len(ending):
        ending = np.roll(ending, -num_frames, axis=0)
    state = init_acoustic(models, 1, room, num_steps).replace(
        speaker_embedding=jnp.asarray(conditions.speaker_embedding, jnp.float32).reshape(1, -1),
        prompt_mel=jnp.asarray(ending[None, -shapes.FRAMES_PER_TOKEN * models.tail :], jnp.float32),
        num_prompt=jnp.array([num_frames], jnp.int32),
    )
    for start, stop in _calls(encoded, models.mask_chunk):
        frames = slice(shapes.FRAMES_PER_TOKEN * start, shapes.FRAMES_PER_TOKEN * stop)
        state = prompt_step(
            models,
            params,
            tokens[None, start : stop + models.lookahead],
            state,
            prompt_mel=jnp.asarray(mel[None, frames], jnp.float32),
            noise=noise,
            guidance_scale=guidance_scale,
        )
    tail = buckets.pad_to(tokens[encoded:], models.tail)
    return VoiceState(state, jnp.asarray(tail), len(tokens) - encoded, len(tokens))


def _calls(num_tokens: int, mask_chunk: int) -> list[tuple[int, int]]:
    """Cuts the encoded tokens into calls of two sizes, so that two programs serve all prompts."""
    large = -(-PROMPT_CALL // mask_chunk) * mask_chunk
    calls, start = [], 0
    while start < num_tokens:
        stop = start + (large if num_tokens - start >= large else mask_chunk)
        calls.append((start, stop))
        start = stop
    return calls


@functools.partial(jax.jit, static_argnames="max_tokens")
def begin_row(acoustic: AcousticState, key: jax.Array, max_tokens: int) -> AcousticState:
    """Returns the state of one row that begins to speak in a voice.

    Args:
      acoustic: that of a `VoiceState`; it stays as it is, for the next stream.
      key: decides the row's noise.
      max_tokens: how far back the row's attention reaches, see `reach`.
    """
    return resize(acoustic, max_tokens).replace(keys=key[None])
