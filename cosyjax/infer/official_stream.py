"""The official way to speak while tokens still come: growing chunks, each redone from the start.

The controller of the official `CosyVoice2Model.tts`, from speech tokens on. A chunk runs the flow
over all tokens so far under the chunk mask, keeps the new frames, and speaks them behind the last
eight frames of the chunk before, whose source and held-back samples make the seam. The last chunk
sees everything (no chunk mask), so near its seam it is not what the chunk mask would give.
Work grows with the square of the length.

Differs: the official code keeps the grown hop on the model, so a second request starts with the
hop of the first; here it lives in the state of one request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer import buckets
from cosyjax.infer.frames import FlowCall, flow_frames
from cosyjax.infer.seam import cross_fade, speak_frames
from cosyjax.infer.speak import VOCODER_STREAM, Conditions
from cosyjax.infer.stages import Stages
from cosyjax.models.hift import HiFT
from cosyjax.ops.stretch import stretch


@dataclasses.dataclass(frozen=True)
class OfficialStreamConfig:
    """The schedule; the defaults are the official ones."""

    first_hop: int = 25  # tokens of the first chunk, beside what fills up the prompt's last one
    max_hop: int = 100  # tokens of a chunk, at most
    hop_growth: int = 2  # factor from one chunk to the next
    overlap_frames: int = 8  # mel frames spoken twice and cross-faded
    num_steps: int | None = None  # Euler steps; None for those of the flow's config
    guidance_scale: float | None = None  # None for that of the flow's config

    def __post_init__(self) -> None:
        if not 1 <= self.first_hop <= self.max_hop or self.hop_growth < 1:
            raise InputError(
                f"first_hop={self.first_hop}, max_hop={self.max_hop}, hop_growth="
                f"{self.hop_growth}: 1 <= first_hop <= max_hop and hop_growth >= 1 are needed"
            )
        if not 1 <= self.overlap_frames <= shapes.FRAMES_PER_TOKEN * self.first_hop:
            raise InputError(
                f"overlap_frames={self.overlap_frames} must be 1 to "
                f"{shapes.FRAMES_PER_TOKEN * self.first_hop}, the frames of first_hop"
            )


class OfficialStream(struct.PyTreeNode):
    """What one request remembers between chunks; before the first one the arrays are zero."""

    hop: int = struct.field(pytree_node=False)  # tokens of the next chunk
    num_spoken: int = struct.field(pytree_node=False)  # tokens behind it
    mel: np.ndarray  # [overlap, M] float32, the last frames
    excitation: np.ndarray  # [n] float32, the source of those frames
    wav: np.ndarray  # [n] float32, their samples, held back


class Chunk(NamedTuple):
    """What one call spoke."""

    wav: np.ndarray  # [N] float32 at 24 kHz
    call: FlowCall
    num_frames: int  # that the flow returned, the prompt's not counted
    next_hop: int  # tokens of the chunk after it


def init_state(model: HiFT, config: OfficialStreamConfig) -> OfficialStream:
    """Returns the state of a request before its first token."""
    num_samples = config.overlap_frames * model.config.samples_per_frame
    mel = np.zeros((config.overlap_frames, model.config.num_mels), np.float32)
    silence = np.zeros(num_samples, np.float32)
    return OfficialStream(config.first_hop, 0, mel, silence, silence)


def next_call(
    state: OfficialStream, num_tokens: int, *, num_prompt: int, lookahead: int, ended: bool
) -> FlowCall | None:
    """Decides what to speak now.

    Args:
      state: of the request.
      num_tokens: decoded so far.
      num_prompt: tokens of the prompt.
      lookahead: tokens that the flow peeks at.
      ended: no more tokens will come.

    Returns:
      the call, or None while there are too few tokens (or, after the end, nothing at all).
    """
    # The first chunk also fills up the prompt, so that it ends where a mask chunk ends.
    hop = state.hop + (-num_prompt % state.hop if state.num_spoken == 0 else 0)
    needed = state.num_spoken + hop + lookahead
    if num_tokens >= needed:
        return FlowCall(needed, state.num_spoken, streaming=True, finalize=False)
    if ended and num_tokens > state.num_spoken:
        return FlowCall(num_tokens, state.num_spoken, streaming=False, finalize=True)
    return None


def step(
    stages: Stages,
    conditions: Conditions,
    state: OfficialStream,
    tokens: np.ndarray,
    call: FlowCall,
    *,
    noise: Any = None,
    key: jax.Array | None = None,
    speed: float = 1.0,
    config: OfficialStreamConfig = OfficialStreamConfig(),
) -> tuple[Chunk, OfficialStream]:
    """Speaks one chunk.

    Args:
      stages: flow and vocoder.
      conditions: prompt tokens, prompt mel and speaker.
      state: of the request.
      tokens: [T] all tokens so far.
      call: from `next_call`.
      noise: [frames, 80] starting noise of the flow; None draws it from `key`.
      key: decides every draw; None: the vocoder's source has no noise.
      speed: above 1 is faster, for a call that speaks a whole request.
      config: the schedule.

    Returns:
      the chunk, and the state after it.

    Raises:
      InputError: another speed than 1 in a chunk, or neither noise nor key.
    """
    whole = call.finalize and call.num_spoken == 0
    if speed != 1.0 and not whole:
        raise InputError(f"speed={speed} cannot be had in chunks; use 1, or speak in one piece")
    frames = flow_frames(
        stages,
        conditions,
        tokens,
        call,
        noise=noise,
        key=key,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
    )
    mel = frames[shapes.FRAMES_PER_TOKEN * call.num_spoken :]
    if speed != 1.0:
        mel = np.asarray(stretch(jnp.asarray(mel), max(1, int(len(mel) / speed))))
    wav, after = _vocode(stages, state, mel, call, key)
    if call.finalize:
        after = after.replace(num_spoken=call.num_tokens)
    else:
        wav = wav[: -len(state.wav)]
        after = after.replace(
            hop=min(config.max_hop, state.hop * config.hop_growth),
            num_spoken=call.num_tokens - stages.flow.model.config.encoder.lookahead,
        )
    return Chunk(wav, call, len(frames), after.hop), after


def stream(
    stages: Stages,
    conditions: Conditions,
    pieces: Iterable[Any],
    *,
    noise: Any = None,
    key: jax.Array | None = None,
    config: OfficialStreamConfig = OfficialStreamConfig(),
) -> Iterator[Chunk]:
    """Speaks tokens as they come.

    Args:
      stages: flow and vocoder.
      conditions: the voice.
      pieces: lists of tokens, in order; how they are cut does not change what is spoken.
      noise: see `step`.
      key: see `step`.
      config: the schedule.

    Yields:
      chunks, whose waveforms follow one another.
    """
    state, tokens = init_state(stages.vocoder.model, config), np.zeros(0, np.int32)
    limits = {
        "num_prompt": len(conditions.flow_tokens),
        "lookahead": stages.flow.model.config.encoder.lookahead,
    }
    inputs: dict[str, Any] = {"noise": noise, "key": key, "config": config}
    for piece in pieces:
        tokens = np.concatenate([tokens, np.asarray(piece, np.int32).reshape(-1)])
        while call := next_call(state, len(tokens), **limits, ended=False):
            chunk, state = step(stages, conditions, state, tokens, call, **inputs)
            yield chunk
    if call := next_call(state, len(tokens), **limits, ended=True):
        yield step(stages, conditions, state, tokens, call, **inputs)[0]


def speak_whole(
    stages: Stages,
    conditions: Conditions,
    tokens: np.ndarray,
    *,
    noise: Any = None,
    key: jax.Array | None = None,
    speed: float = 1.0,
    config: OfficialStreamConfig = OfficialStreamConfig(),
) -> Chunk:
    """Speaks all tokens in one call under the full mask; arguments as in `step`."""
    call = FlowCall(len(tokens), 0, streaming=False, finalize=True)
    state = init_state(stages.vocoder.model, config)
    inputs: dict[str, Any] = {"noise": noise, "key": key, "speed": speed, "config": config}
    return step(stages, conditions, state, tokens, call, **inputs)[0]


def _vocode(
    stages: Stages, state: OfficialStream, mel: np.ndarray, call: FlowCall, key: jax.Array | None
) -> tuple[np.ndarray, OfficialStream]:
    """Speaks new frames behind the overlap: samples (the overlap's at both ends), and the state."""
    model = stages.vocoder.model
    goes_on, overlap = call.num_spoken > 0, len(state.mel)
    if goes_on:
        mel = np.concatenate([state.mel, mel])
    first_frame = shapes.FRAMES_PER_TOKEN * call.num_spoken - overlap * goes_on
    size = buckets.bucket(len(mel), buckets.MEL_FRAMES, "mel frames")
    padded, excitation = speak_frames(
        model,
        stages.vocoder.params,
        buckets.pad_to(mel, size)[None],
        jnp.array([len(mel)], jnp.int32),
        (state.excitation[None], jnp.array([goes_on])),
        key=key if key is None else jax.random.fold_in(key, VOCODER_STREAM),
        first_frame=first_frame,
    )
    num_samples = len(mel) * model.config.samples_per_frame
    wav, excitation = np.asarray(padded)[0, :num_samples], np.asarray(excitation)[0, :num_samples]
    if goes_on:
        wav = cross_fade(state.wav, wav)
    held = len(state.wav)
    after = state.replace(mel=mel[-overlap:], excitation=excitation[-held:], wav=wav[-held:])
    return wav, after
