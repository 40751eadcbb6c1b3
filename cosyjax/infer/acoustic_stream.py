"""Speech tokens to audio in chunks: what streams is what would have been said whole.

One step speaks C tokens of each row after peeking at A more: the flow under the chunk mask, with
everything that it remembers in the state, then the vocoder. The noise of a frame follows
from a key and the frame's absolute number, so how a stream is cut changes the delay and nothing
else; a whole utterance is one large chunk. Rows know nothing of one another: each has its own
position, and may end, rest, join or leave between two steps (`put_row`).

CosyVoice 2 (arXiv 2412.10117) section 2.4. Differs: the official code computes all earlier tokens
again for each chunk, and runs the last one under the full mask; here every chunk sees alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.infer import kept
from cosyjax.infer.acoustic_state import PROMPT_SEED, AcousticModels, AcousticState
from cosyjax.infer.speak import NOISE_STREAM, VOCODER_STREAM
from cosyjax.infer.vocode import speak_rows
from cosyjax.models.flow import FlowState
from cosyjax.ops import noise as noise_ops
from cosyjax.ops.rows import shift_left


class Spoken(NamedTuple):
    """What one step says."""

    wav: jax.Array  # [B, N] at 24 kHz; N holds C tokens and the vocoder's look-ahead
    num_samples: jax.Array  # [B] int32; the rest of a row is zero
    mel: jax.Array  # [B, 2C, M] the frames that the vocoder heard
    num_frames: jax.Array  # [B] int32


class Given(NamedTuple):
    """What `acoustic_step` takes beside the models."""

    params: Any
    tokens: jax.Array
    state: AcousticState
    num_valid: jax.Array
    last: jax.Array
    noise: jax.Array | None
    guidance_scale: jax.Array | None


Step = Callable[[Given], tuple[Spoken, AcousticState]]


@functools.partial(jax.jit, static_argnames="models", donate_argnames="state")
def acoustic_step(
    models: AcousticModels,
    params: Any,
    tokens: jax.Array,
    state: AcousticState,
    *,
    num_valid: jax.Array,
    last: jax.Array,
    noise: jax.Array | None = None,
    guidance_scale: jax.Array | float | None = None,
) -> tuple[Spoken, AcousticState]:
    """Speaks the next C tokens of each row; compiled once per (B, C).

    A row with `num_valid` of 0 that is not `last` rests: it says nothing, its state stays.

    Args:
      models: flow and vocoder.
      params: their parameters.
      tokens: int [B, C + A], what the flow has not yet spoken; C is a multiple of `mask_chunk`.
      state: from `init_acoustic`, `put_row` or the step before; its memory is taken.
      num_valid: int [B], valid tokens of each row. All C + A, unless the row's end is among them.
      last: bool [B], the row ends with these tokens, of which C are valid at most.
      noise: [frames, M] fixed noise of the bundle; None draws it from the rows' keys.
      guidance_scale: by default that of the flow's config.

    Returns:
      What is spoken, and the state. A row that goes on is `vocode.delay_frames` behind its tokens;
      one that ends catches up.

    Raises:
      InputError: C is no multiple of `mask_chunk`.
    """
    num_frames = shapes.FRAMES_PER_TOKEN * (tokens.shape[1] - models.lookahead)
    first = shapes.FRAMES_PER_TOKEN * state.position
    speak = functools.partial(
        _speak_flow,
        models,
        params[0],
        tokens,
        prompt_mel=_prompt_frames(state, num_frames),
        num_valid=num_valid,
        noise=noise,
        guidance_scale=guidance_scale,
    )
    mel, flow = _where_live(num_valid > 0, speak, state, num_frames)
    skipped = jnp.clip(state.num_prompt - first, 0, num_frames)
    known = jnp.minimum(shapes.FRAMES_PER_TOKEN * num_valid, num_frames)
    heard = jnp.maximum(known - skipped, 0)
    mel = shift_left(mel, skipped)
    wav, num_samples, vocoder = speak_rows(
        models.vocoder,
        params[1],
        mel,
        state.vocoder,
        keys=jax.vmap(jax.random.fold_in, (0, None))(state.keys, VOCODER_STREAM),
        num_frames=heard,
        last=last,
        overlap=models.overlap,
    )
    return Spoken(wav, num_samples, mel, heard), state.replace(flow=flow, vocoder=vocoder)


def kept_step(models: AcousticModels, given: Given, place: Path) -> Step:
    """`acoustic_step` for arguments like `given`, traced once per machine; see `kept`."""

    def speak(given: Given) -> tuple[Any, ...]:
        spoken, state = acoustic_step(
            models,
            given.params,
            given.tokens,
            given.state,
            num_valid=given.num_valid,
            last=given.last,
            noise=given.noise,
            guidance_scale=given.guidance_scale,
        )
        return (*spoken, *jax.tree.leaves(state))

    like = jax.tree.map(lambda _: False, given)
    donate = like._replace(state=jax.tree.map(lambda _: True, given.state))
    run = kept.program(speak, given, static=models, donate=donate, place=place)
    tree, count = jax.tree.structure(given.state), len(Spoken._fields)

    def step(given: Given) -> tuple[Spoken, AcousticState]:
        said = run(jax.tree.leaves(given))
        return Spoken(*said[:count]), jax.tree.unflatten(tree, said[count:])

    return step


@functools.partial(jax.jit, static_argnames="models", donate_argnames="state")
def prompt_step(
    models: AcousticModels,
    params: Any,
    tokens: jax.Array,
    state: AcousticState,
    *,
    prompt_mel: jax.Array,
    noise: jax.Array | None = None,
    guidance_scale: jax.Array | float | None = None,
) -> AcousticState:
    """Lets the flow hear the next C tokens of a prompt; the vocoder hears none of it.

    Args:
      models: flow and vocoder.
      params: their parameters.
      tokens: int [B, C + A], all of them of the prompt.
      state: whose `num_prompt` is set.
      prompt_mel: [B, 2C, M] of the C tokens.
      noise: as in `acoustic_step`.
      guidance_scale: as in `acoustic_step`.
    """
    _, flow = _speak_flow(
        models,
        params[0],
        tokens,
        state,
        prompt_mel=prompt_mel,
        num_valid=jnp.full(tokens.shape[:1], tokens.shape[1], jnp.int32),
        noise=noise,
        guidance_scale=guidance_scale,
    )
    return state.replace(flow=flow)


def _speak_flow(
    models: AcousticModels,
    params: Any,
    tokens: jax.Array,
    state: AcousticState,
    *,
    prompt_mel: jax.Array,
    num_valid: jax.Array,
    noise: jax.Array | None,
    guidance_scale: jax.Array | float | None,
) -> tuple[jax.Array, FlowState]:
    """Mel [B, 2C, M] of the first C of `tokens`, and the flow's state."""
    chunk = tokens.shape[1] - models.lookahead
    first = shapes.FRAMES_PER_TOKEN * state.position
    frames = first[:, None] + jnp.arange(shapes.FRAMES_PER_TOKEN * chunk)
    spoken: Any = models.flow.apply(
        {"params": params},
        tokens[:, :chunk],
        state.flow,
        tokens[:, chunk:],
        speaker_embedding=state.speaker_embedding,
        prompt_mel=prompt_mel,
        noise=flow_noise(noise, state.keys, frames, state.num_prompt, prompt_mel.shape[-1]),
        num_valid=num_valid,
        guidance_scale=guidance_scale,
        method="step",
    )
    return spoken


def flow_noise(
    buffer: jax.Array | None,
    keys: jax.Array,
    frames: jax.Array,
    num_prompt: jax.Array,
    num_mels: int = shapes.NUM_MELS,
) -> jax.Array:
    """Starting noise as a function of the row's key and the absolute frame.

    Under a prompt it is the same for all requests, so that a voice is encoded once.

    Args:
      buffer: [N, M] fixed noise of a bundle, which then decides alone; or None.
      keys: [B] of the rows.
      frames: int [B, F] absolute numbers, those of the prompt included.
      num_prompt: int [B] frames of the prompt.
      num_mels: M.

    Returns:
      [B, F, M] float32.
    """
    if buffer is not None:
        return noise_ops.buffer_noise(buffer, frames)
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, NOISE_STREAM)
    given = jax.random.fold_in(jax.random.key(PROMPT_SEED), NOISE_STREAM)
    drawer = jnp.where(frames < num_prompt[:, None], given, own[:, None])
    one = lambda key, frame: noise_ops.frame_noise(key, frame, num_mels)
    return jax.vmap(jax.vmap(one))(drawer, frames)


def _where_live(
    live: jax.Array,
    speak: Callable[[AcousticState], Any],
    state: AcousticState,
    num_frames: int,
) -> tuple[jax.Array, FlowState]:
    """`speak(state)`, so many frames; the flow of rows that are not `live` [B] stays as it is."""
    if live.shape[0] > 1:
        mel, after = speak(state)
        return mel, _keep_rows(live, after, state.flow)
    # A single row that rests costs nothing, and one that speaks no pass over its caches.
    shape = (1, num_frames, state.prompt_mel.shape[2])
    rest = lambda state: (jnp.zeros(shape, jnp.float32), state.flow)
    return jax.lax.cond(live[0], speak, rest, state)


def _keep_rows(live: jax.Array, after: FlowState, before: FlowState) -> FlowState:
    """`after` where `live` [B], elsewhere `before`."""

    def choose(rows: jax.Array, axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
        others = lambda x: tuple(i for i in range(x.ndim) if i != axis)
        return lambda new, old: jnp.where(jnp.expand_dims(rows, others(new)), new, old)

    twice = jnp.concatenate([live, live])  # with conditions, and without
    return after.replace(
        encoder=jax.tree.map(choose(live, 0), after.encoder, before.encoder),
        estimator=jax.tree.map(choose(twice, 1), after.estimator, before.estimator),
    )


def _prompt_frames(state: AcousticState, num_frames: int) -> jax.Array:
    """[B, num_frames, M] the prompt's mel of the next frames, zeros beyond its end."""
    first = shapes.FRAMES_PER_TOKEN * state.position
    size = state.prompt_mel.shape[1]
    start = jnp.where(state.num_prompt > first, size - state.num_prompt + first, size)
    padded = jnp.pad(state.prompt_mel, ((0, 0), (0, num_frames), (0, 0)))
    return shift_left(padded, start)[:, :num_frames]
