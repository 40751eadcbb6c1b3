"""Text to audio in chunks: draw the tokens that the next chunk needs, then speak them.

The state of B streams is one value of fixed shapes. A step is three programs that follow one
another without the host: the LM's loop, what moves tokens from it to the flow, and
`acoustic_step`, which alone depends on the size of the chunk. The host waits once, for the audio.
Rows join (`join_row`), go on with further text (`next_piece`; `feed_text.feed_text` where the LM
reads a text while it comes) and end on their own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.errors import InputError
from cosyjax.infer import acoustic_stream, decode_rows, decode_text
from cosyjax.infer.acoustic_state import AcousticModels, AcousticState, init_acoustic, put_row
from cosyjax.infer.acoustic_stream import Spoken, acoustic_step
from cosyjax.infer.decode import DecodeState, SamplingConfig
from cosyjax.infer.decode_text import TextState
from cosyjax.infer.stages import Stage
from cosyjax.models.text_speech_lm import TextSpeechLM


class Speaker(NamedTuple):
    """Everything that a step takes beside the state."""

    lm: Stage
    models: AcousticModels
    params: Any  # of flow and vocoder
    sampling: SamplingConfig = SamplingConfig()
    noise: Any = None  # [frames, M] fixed noise of the bundle, or None
    guidance_scale: Any = None  # None for that of the flow's config
    steps: Mapping[int, acoustic_stream.Step] = {}  # programs made beforehand, by their chunk


class Sizes(NamedTuple):
    """What the shapes of a state follow from."""

    batch: int  # B, streams at once
    reach: int  # tokens that the flow's caches hold, see `acoustic_state.reach`
    max_tokens: int  # speech tokens of one piece of text, at most
    lm_length: int  # positions of the LM's caches: prompt, text and speech tokens
    window: int  # tokens of the largest step, see `StreamConfig.window`
    text_room: int = 256  # text tokens that may wait to be read, see `feed_text.py`


class Queue(struct.PyTreeNode):
    """Tokens between LM and flow."""

    pending: jax.Array  # [B, window] int32 decoded or of the prompt, and not yet spoken
    num_pending: jax.Array  # [B] int32
    num_taken: jax.Array  # [B] int32 tokens of the LM's that have been moved to `pending`
    final: jax.Array  # [B] bool, no text follows what the LM is reading
    done: jax.Array  # [B] bool, all has been said


class StreamState(struct.PyTreeNode):
    """All that B streams remember between chunks."""

    lm: DecodeState
    queue: Queue
    acoustic: AcousticState
    text: TextState


class Arrival(NamedTuple):
    """What a row begins with: its voice, and what the LM has read and drawn first."""

    acoustic: AcousticState  # of one row, from `begin_row`
    tail: jax.Array  # [n] int32 tokens of the prompt that are to be spoken unheard
    num_tail: jax.Array | int
    lm: DecodeState  # of one row, from `decode.start`
    final: jax.Array | bool  # no further piece of text will come
    text: TextState | None = None  # of one row, from `start_text_row`; None: `lm` has read it all


def init_stream_state(speaker: Speaker, sizes: Sizes, num_steps: int | None = None) -> StreamState:
    """Returns a state whose rows are free."""
    state = _free_rows(speaker.lm.model, speaker.models, speaker.sampling, sizes, num_steps)
    # What a kept program returns is bound to its device. A state that is bound from the start meets
    # each program in one form; else all of them would be compiled twice.
    return jax.device_put(state, jax.devices()[0]) if speaker.steps else state


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))  # at once: a stream begins with it
def _free_rows(
    lm: TextSpeechLM,
    models: AcousticModels,
    sampling: SamplingConfig,
    sizes: Sizes,
    num_steps: int | None,
) -> StreamState:
    rows = lambda value, dtype: jnp.full((sizes.batch,), value, dtype)
    text = decode_text.no_text(sizes.batch, sizes.text_room, lm.config.mix_ratio[0], sampling)
    return StreamState(
        lm=decode_rows.idle(lm, sizes.batch, sizes.lm_length, sizes.max_tokens),
        queue=Queue(
            pending=jnp.zeros((sizes.batch, sizes.window), jnp.int32),
            num_pending=rows(0, jnp.int32),
            num_taken=rows(0, jnp.int32),
            final=rows(True, bool),
            done=rows(True, bool),
        ),
        acoustic=init_acoustic(models, sizes.batch, sizes.reach, num_steps),
        text=jax.tree.map(jnp.array, text),
    )


def stream_step(
    speaker: Speaker, state: StreamState, chunk: int
) -> tuple[Spoken, jax.Array, StreamState]:
    """Speaks the next `chunk` tokens of every row that has them, or that ends.

    A row that lacks text rests: one whose LM has ended (its `final` is False) until `next_piece`,
    one whose LM asks for text until `feed_text.feed_text`.

    Args:
      speaker: models, parameters, and how tokens are drawn.
      state: its memory is taken.
      chunk: tokens to speak, a multiple of `mask_chunk`.

    Returns:
      what each row says; bool [B], which rows have said all; and the state. Nothing has been
      waited for: fetching the first two is the one synchronisation of a step.

    Raises:
      InputError: a chunk of another size, or larger than the state was made for.
    """
    models, room = speaker.models, state.queue.pending.shape[1]
    if chunk + models.lookahead > room:
        raise InputError(
            f"chunk={chunk}; this state takes at most {room - models.lookahead}: "
            "make it with a larger window"
        )
    wanted = _wanted(state.queue, chunk + models.lookahead)
    lm, text = decode_text.decode_wanted(
        *(speaker.lm.model, speaker.lm.params, state.lm, state.text, wanted),
        sampling=speaker.sampling,
    )
    given, queue = _take(
        state.queue, lm.tokens, lm.num_tokens, lm.done, sizes=(chunk, models.lookahead)
    )
    spoken, acoustic = _speak(speaker, given, state.acoustic, chunk)
    return spoken, queue.done, StreamState(lm, queue, acoustic, text)


def keep_step(speaker: Speaker, state: StreamState, chunk: int, place: Path) -> Speaker:
    """Returns a speaker whose `stream_step` of `chunk` tokens is not traced again on this machine.

    Args:
      speaker: to which the program is added.
      state: like those that it will be used with; it is only looked at.
      chunk: tokens.
      place: folder of such programs, see `kept`.
    """
    batch = state.queue.done.shape
    tokens = jax.ShapeDtypeStruct((*batch, chunk + speaker.models.lookahead), jnp.int32)
    counts, flags = (jax.ShapeDtypeStruct(batch, dtype) for dtype in (jnp.int32, bool))
    array = lambda x: None if x is None else jnp.asarray(x, jnp.float32)
    noise, scale = array(speaker.noise), array(speaker.guidance_scale)
    given: Any = (speaker.params, tokens, state.acoustic, counts, flags, noise, scale)
    step = acoustic_stream.kept_step(speaker.models, acoustic_stream.Given(*given), place)
    steps = {**speaker.steps, chunk: step}
    return speaker._replace(steps=steps, noise=noise, guidance_scale=scale)


def _speak(
    speaker: Speaker, given: _Given, state: AcousticState, chunk: int
) -> tuple[Spoken, AcousticState]:
    if chunk in speaker.steps:
        own = speaker.noise, speaker.guidance_scale
        known = acoustic_stream.Given(
            speaker.params, given.tokens, state, given.num_valid, given.last, *own
        )
        return speaker.steps[chunk](known)
    return acoustic_step(
        speaker.models,
        speaker.params,
        given.tokens,
        state,
        num_valid=given.num_valid,
        last=given.last,
        noise=speaker.noise,
        guidance_scale=speaker.guidance_scale,
    )


@jax.jit
def _wanted(queue: Queue, window: int) -> jax.Array:
    """int32 [B], tokens that the LM is to have drawn so that every row has `window` to speak."""
    return jnp.where(queue.done, 0, queue.num_taken + window - queue.num_pending)


class _Given(NamedTuple):
    tokens: jax.Array  # [B, C + A]
    num_valid: jax.Array  # [B]
    last: jax.Array  # [B]


@functools.partial(jax.jit, static_argnames="sizes")
def _take(
    queue: Queue,
    tokens: jax.Array,
    num_tokens: jax.Array,
    lm_done: jax.Array,
    *,
    sizes: tuple[int, int],
) -> tuple[_Given, Queue]:
    """Takes the tokens of a step of (chunk, look-ahead), and those that it speaks off the queue."""
    chunk, lookahead = sizes
    queue = _top_up(queue, tokens, num_tokens)
    ended = queue.final & lm_done & (queue.num_taken == num_tokens)
    ready = ~queue.done & (ended | (queue.num_pending >= chunk + lookahead))
    num_valid = jnp.where(ready, jnp.minimum(queue.num_pending, chunk + lookahead), 0)
    last = ready & ended & (queue.num_pending <= chunk)
    given = _Given(queue.pending[:, : chunk + lookahead], num_valid, last)
    popped = jnp.minimum(num_valid, chunk)
    slots = jnp.arange(queue.pending.shape[1]) + popped[:, None]
    pending = jnp.take_along_axis(queue.pending, slots, axis=1, mode="fill", fill_value=0)
    return given, queue.replace(
        pending=pending, num_pending=queue.num_pending - popped, done=queue.done | last
    )


def _top_up(queue: Queue, tokens: jax.Array, num_tokens: jax.Array) -> Queue:
    """Moves as many of the LM's tokens [B, T] behind the pending ones as there is room for."""
    room = queue.pending.shape[1]
    slots = jnp.arange(room) - queue.num_pending[:, None]
    index = jnp.clip(queue.num_taken[:, None] + slots, 0, tokens.shape[1] - 1)
    drawn = jnp.take_along_axis(tokens, index, axis=1)
    moved = jnp.minimum(num_tokens - queue.num_taken, room - queue.num_pending)
    return queue.replace(
        pending=jnp.where(slots < 0, queue.pending, jnp.where(slots < moved[:, None], drawn, 0)),
        num_pending=queue.num_pending + moved,
        num_taken=queue.num_taken + moved,
    )


@functools.partial(jax.jit, donate_argnums=0)
def join_row(state: StreamState, row: jax.Array | int, arrival: Arrival) -> StreamState:
    """Lets a stream begin in row number `row`, whoever spoke there; the others notice nothing."""
    size = min(arrival.tail.shape[0], state.queue.pending.shape[1])
    pending = jnp.zeros(state.queue.pending.shape[1], jnp.int32).at[:size].set(arrival.tail[:size])
    queue = Queue(
        pending=state.queue.pending.at[row].set(pending),
        num_pending=state.queue.num_pending.at[row].set(arrival.num_tail),
        num_taken=state.queue.num_taken.at[row].set(0),
        final=state.queue.final.at[row].set(arrival.final),
        done=state.queue.done.at[row].set(False),
    )
    acoustic = put_row(state.acoustic, row, arrival.acoustic)
    return _put_lm(state, row, arrival.lm, arrival.text).replace(queue=queue, acoustic=acoustic)


@functools.partial(jax.jit, donate_argnums=0)
def next_piece(
    state: StreamState,
    row: jax.Array | int,
    lm: DecodeState,
    final: jax.Array | bool,
    text: TextState | None = None,
) -> StreamState:
    """Gives a row whose LM has ended its next piece of text: the sound goes on without a seam.

    Args:
      state: of the batch; its memory is taken.
      row: number of the row.
      lm: of one row, from `decode.start`.
      final: no further piece will come.
      text: as in `Arrival`.
    """
    queue = _top_up(state.queue, state.lm.tokens, state.lm.num_tokens)
    queue = queue.replace(
        num_taken=queue.num_taken.at[row].set(0), final=queue.final.at[row].set(final)
    )
    return _put_lm(state, row, lm, text).replace(queue=queue)


def _put_lm(
    state: StreamState, row: jax.Array | int, lm: DecodeState, text: TextState | None
) -> StreamState:
    text = decode_text.after_text(lm, state.text) if text is None else text
    put = decode_text.put_row(state.text, row, text)
    return state.replace(lm=decode_rows.put_row(state.lm, row, lm), text=put)


@functools.partial(jax.jit, donate_argnums=0)
def leave_row(state: StreamState, row: jax.Array | int) -> StreamState:
    """Lets a row fall silent before its end: it draws and speaks nothing more."""
    lm = state.lm.replace(max_tokens=state.lm.max_tokens.at[row].set(0))
    return state.replace(lm=lm, queue=state.queue.replace(done=state.queue.done.at[row].set(True)))
