"""Text for rows that already speak: how much of it a row takes, and handing it over.

A text is never dropped. What a row has no room for is refused before the state is touched: too
much at once (more fits once the row has read on), or more than its piece can say (`budget`; the
others belong to another piece).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import buckets
from cosyjax.infer.stream_step import StreamState

SIZES = (8, 64)  # that text tokens are padded to, beside the room of the state


class Progress(NamedTuple):
    """What whoever feeds text has to know of the rows, [B] each."""

    room: jax.Array  # int32 text tokens that the row takes now
    budget: jax.Array  # int32 text tokens that its piece takes in all, as it reads on
    num_waiting: jax.Array  # int32 text tokens that have not been read
    resting: jax.Array  # bool, the row has drawn all that its text allows
    final: jax.Array  # bool, the text has ended
    ended: jax.Array  # bool, the LM has ended the piece


def feed_text(
    state: StreamState,
    row: int,
    tokens: np.ndarray,
    final: bool = False,
    *,
    room: int | None = None,
) -> StreamState:
    """Hands a row that was begun with `start_text_row` the next tokens of its text.

    What it says does not depend on how the text was cut. After `final` it says the rest and ends
    its piece; whether the stream then ends or waits for another one is up to `Arrival.final`. A
    text that ends without a single token says nothing.

    Args:
      state: of the batch; its memory is taken, unless an error is raised.
      row: number of the row.
      tokens: int [K], may be empty; padded here to one of a few sizes.
      final: the text is complete.
      room: text tokens that the row is known to take: `TextState.room` as the row began, or
        `Progress.room` after a later step, less what was fed since. It is trusted. None asks the
        state, and thereby waits for the step that made it.

    Raises:
      InputError: the row does not take so many; nothing is lost, the state is as it was.
    """
    num, most = len(tokens), state.text.waiting.shape[1]
    if not num and not final:
        return state
    if num and room is None:
        room = int(jax.device_get(text_progress(state).room)[row])
    if num > min(room or 0, most):
        raise InputError(_refusal(jax.device_get(text_progress(state)), row, num))
    size = next(size for size in (*SIZES, most) if num <= size)
    padded = buckets.pad_to(np.asarray(tokens, np.int32), size)
    return _feed(state, row, padded, np.int32(num), np.bool_(final))


@functools.partial(jax.jit, donate_argnums=0)
def _feed(
    state: StreamState, row: jax.Array, tokens: jax.Array, num: jax.Array, final: jax.Array
) -> StreamState:
    """Puts `num` of `tokens` [K] behind the row's text that waits."""
    lm, text = state.lm, state.text
    size, present = text.waiting.shape[1], text.num_waiting[row]
    slots = jnp.arange(size, dtype=jnp.int32)
    old = jnp.take(text.waiting[row], text.head[row] + slots, mode="clip")
    new = jnp.take(tokens, slots - present, mode="clip")
    total, ended = text.num_text[row] + num, text.final[row] | final
    text = text.replace(
        waiting=text.waiting.at[row].set(jnp.where(slots < present, old, new)),
        head=text.head.at[row].set(0),
        num_waiting=text.num_waiting.at[row].add(num),
        final=text.final.at[row].set(ended),
        num_text=text.num_text.at[row].set(total),
        budget=text.budget.at[row].add(-num),
    )
    empty = ended & (total == 0) & text.asked[row]
    lm = lm.replace(finished=lm.finished.at[row].set(lm.finished[row] | empty))
    return state.replace(lm=lm, text=text)


@jax.jit
def text_progress(state: StreamState) -> Progress:
    """How far the rows are with their text; a small copy, so that the state can be given away."""
    text, ended = state.text, state.lm.done
    return Progress(
        room=jnp.where(ended, 0, text.room),
        budget=jnp.where(ended | text.final, 0, text.budget),
        num_waiting=text.num_waiting + 0,
        resting=~ended & ~text.can_go_on,
        final=text.final | False,
        ended=ended,
    )


def _refusal(seen: Progress, row: int, num: int) -> str:
    """Why a row does not take `num` text tokens."""
    given = f"{num} text tokens for row {row}"
    if seen.ended[row] or seen.final[row]:
        return f"{given}, whose text has ended: begin another piece (next_piece)"
    if num > seen.budget[row]:
        return (
            f"{given}, whose piece takes {seen.budget[row]} more: end it with them, and begin "
            "another piece (next_piece) with the others"
        )
    return (
        f"{given}, which takes {seen.room[row]} now and more as it reads on: feed so many, and the "
        "others after a step"
    )
