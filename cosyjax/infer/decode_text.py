"""Decoding rows whose text arrives while they speak, beside rows whose text is known: one loop.

A row reads n text tokens, draws up to m speech tokens, reads the next n, and so on (the bistream
layout of `ops.interleave`); what is left of the text, `task` and the rest of the speech come last,
in the row's tail. A row that has read its whole text beforehand stands in its tail from the start,
so both kinds of row are one. Each turn of the loop feeds one position of every row: its last
speech token, the next of its text, or `task`.

The layout follows from the text alone, never from how it arrived: a block is read once all of it
is there, the tail once the text has ended, and until then the row rests.
Differs: `decode_bistream` (the official schedule) makes a block for each piece that comes in, so
that a text in large pieces has fewer of them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cosyjax.infer.decode import (
    DecodeState,
    Sampler,
    SamplingConfig,
    _is_runaway,
    _predict,
    log_probs,
    make_sampler,
    recent,
    row_keys,
)
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, lay_out, lengthen
from cosyjax.ops.interleave import SPECIAL, SPEECH, TASK, TEXT


class TextState(struct.PyTreeNode):
    """What B rows know of their text beside `DecodeState`. Fixed shapes."""

    waiting: jax.Array  # [B, S] int32 text tokens; the first that has not been read is at `head`
    head: jax.Array  # [B] int32
    num_waiting: jax.Array  # [B] int32 text tokens that have not been read
    final: jax.Array  # [B] bool, the text has ended
    asked: jax.Array  # [B] bool, a block is complete: text comes next
    unread: jax.Array  # [B] int32 positions to read before the next draw: text, in the end task
    tail: jax.Array  # [B] bool, all full blocks lie behind
    left: jax.Array  # [B] int32 speech tokens of the block until `fill` is forced
    num_drawn: jax.Array  # [B] int32 ids drawn, `fill` included: what randomness counts
    recent: jax.Array  # [B, W] int32 the last ids drawn, `fill` included; -1 for none
    num_text: jax.Array  # [B] int32 text tokens so far, without those of the prompt
    budget: jax.Array  # [B] int32 text tokens that may still be fed, as room is made for them
    ratios: jax.Array  # [B, 2] float32 fewest and most speech tokens for a text token
    block: int = struct.field(pytree_node=False)  # n, text tokens of a block

    @property
    def can_go_on(self) -> jax.Array:
        """[B] bool: the row does not wait for text."""
        there = self.final | (self.num_waiting >= self.block)
        return ~self.asked | (there & (self.num_text > 0))  # a prompt's text alone says nothing

    @property
    def room(self) -> jax.Array:
        """[B] int32 text tokens that the row takes now, if it has not ended."""
        fits = jnp.minimum(self.budget, self.waiting.shape[1] - self.num_waiting)
        return jnp.where(self.final, 0, fits)


def history(sampling: SamplingConfig) -> int:
    """W: how many of the last ids drawing looks at."""
    return max(sampling.window, sampling.runaway_window)


def no_text(batch: int, room: int, block: int, sampling: SamplingConfig) -> TextState:
    """Returns the state of rows that have read all of their text, on the host.

    Args:
      batch: B.
      room: S, text tokens that may wait.
      block: n, text tokens of a block.
      sampling: how tokens are drawn.
    """
    make: Any = np.full
    none = make((batch,), 0, np.int32)
    return TextState(
        waiting=make((batch, room), 0, np.int32),
        head=none,
        num_waiting=none,
        final=none == 0,
        asked=none > 0,
        unread=none,
        tail=none == 0,
        left=none,
        num_drawn=none,
        recent=make((batch, history(sampling)), -1, np.int32),
        num_text=none,
        budget=none,
        ratios=make((batch, 2), 0, np.float32),
        block=block,
    )


def after_text(lm: DecodeState, like: TextState) -> TextState:
    """The state of one row that has read its text with `decode.start`, in the sizes of `like`."""
    first = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), like)
    yes = jnp.ones((1,), bool)
    ids = recent(lm.tokens, lm.num_tokens, like.recent.shape[1])
    return first.replace(final=yes, tail=yes, num_drawn=lm.num_tokens, recent=ids)


def put_row(text: TextState, row: jax.Array | int, one: TextState) -> TextState:
    """Writes a state of one row over row number `row`."""
    return jax.tree.map(lambda old, new: old.at[row].set(new[0]), text, one)


@functools.partial(jax.jit, static_argnames=("model", "sampling", "max_tokens", "lm_length"))
def start_text(
    model: TextSpeechLM,
    params: Any,
    prompt: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    length: jax.Array,
    text: TextState,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    max_tokens: int,
    lm_length: int,
) -> tuple[DecodeState, TextState]:
    """Reads sos and the prompt of rows; draws the first token where no text comes first.

    Args:
      model: the language model.
      params: its parameters.
      prompt: (text_tokens, num_text, prompt_speech, num_prompt_speech) as in `decode.generate`,
        to be laid out in blocks.
      length: [B] int32 positions of that layout that are read.
      text: of the rows, as it stands once the prompt has been read.
      key: one key or [B] keys.
      sampling: how to draw.
      max_tokens: speech tokens that the state has room for, and the limit.
      lm_length: positions of the caches.
    """
    batch = length.shape[0]
    bistream = jnp.ones((batch,), bool)
    layout = lay_out(model.config, *prompt, bistream=bistream, with_targets=False)
    size = min(layout.ids.shape[1], lm_length)
    caches = model.apply({"params": params}, batch, size, method="init_state")
    logits, caches = _predict(model, params, layout.ids, layout.kinds, length, caches)
    none = jnp.zeros((batch,), jnp.int32)
    lm = DecodeState(
        lm=lengthen(caches, lm_length),
        last=none,
        tokens=jnp.full((batch, max_tokens), -1, jnp.int32),
        num_tokens=none,
        min_tokens=none,
        max_tokens=none + max_tokens,
        keys=row_keys(key, batch),
        finished=text.final & (text.num_text == 0),
        runaway=none > 0,
    )
    lm = _limit(lm, text, text.tail)
    speaks = ~text.asked & ~lm.done
    return _emit(lm, text, logits, speaks, model.config, sampling, make_sampler(sampling))


@functools.partial(
    jax.jit, static_argnames=("model", "sampling", "sampler"), donate_argnames=("lm", "text")
)
def decode_wanted(
    model: TextSpeechLM,
    params: Any,
    lm: DecodeState,
    text: TextState,
    wanted: jax.Array,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    sampler: Sampler | None = None,
) -> tuple[DecodeState, TextState]:
    """Draws until every row has the tokens that are wanted of it, has ended, or waits for text.

    A row that has them goes on as long as another has not: it costs nothing, and is ahead.

    Args:
      model: the language model.
      params: its parameters, best from `prepare_for_decode`.
      lm: of the rows; its memory is taken.
      text: of the rows; its memory is taken.
      wanted: [B] int32 tokens that a row is to have drawn in its piece.
      sampling: how to draw.
      sampler: a pure function to use instead.
    """
    drawer = sampler or make_sampler(sampling)
    config = model.config

    def missing(carry: tuple[DecodeState, TextState]) -> jax.Array:
        lm, text = carry
        able = ~lm.done & text.can_go_on
        return jnp.any(able & (lm.num_tokens < wanted))

    def turn(carry: tuple[DecodeState, TextState]) -> tuple[DecodeState, TextState]:
        lm, text = _begin_block(*carry, config)
        live = ~lm.done & ~text.asked  # any other row leaves its cache as it is
        ids, kinds, text = _next_position(lm, text, live)
        fed = ids[:, None], kinds[:, None], live.astype(jnp.int32)
        logits, caches = _predict(model, params, *fed, lm.lm)
        speaks = live & (text.unread == 0)
        return _emit(lm.replace(lm=caches), text, logits, speaks, config, sampling, drawer)

    return jax.lax.while_loop(missing, turn, (lm, text))


def _begin_block(
    lm: DecodeState, text: TextState, config: TextSpeechLMConfig
) -> tuple[DecodeState, TextState]:
    """Lets the rows that asked for text read a block if it is there, or all if no more comes."""
    n, m = config.mix_ratio
    reads = text.asked & ~lm.done & text.can_go_on
    ends = reads & (text.num_waiting < n)
    text = text.replace(
        asked=text.asked & ~reads,
        unread=jnp.where(reads, jnp.where(ends, text.num_waiting + 1, n), text.unread),
        tail=text.tail | ends,
        left=jnp.where(reads, m, text.left),
    )
    return _limit(lm, text, ends), text


def _limit(lm: DecodeState, text: TextState, rows: jax.Array) -> DecodeState:
    """Sets the least and the most tokens of the `rows` that enter their tail: their text is known.

    Before, a block itself is the limit, so that no limit depends on how the text arrived.
    """
    limits = jnp.minimum(text.num_text[:, None] * text.ratios, lm.tokens.shape[1])
    fewest, most = limits.astype(jnp.int32).T
    most = jnp.minimum(most, lm.max_tokens)
    return lm.replace(
        min_tokens=jnp.where(rows, jnp.minimum(fewest, most), lm.min_tokens),
        max_tokens=jnp.where(rows, most, lm.max_tokens),
    )


def _next_position(
    lm: DecodeState, text: TextState, live: jax.Array
) -> tuple[jax.Array, jax.Array, TextState]:
    """The id and the kind, [B] each, that every row reads next; task is the last of a tail."""
    reads = live & (text.unread > 0)
    is_task = reads & text.tail & (text.unread == 1)
    is_text = reads & ~is_task
    word = jnp.take_along_axis(text.waiting, text.head[:, None], axis=1, mode="clip")[:, 0]
    ids = jnp.where(is_task, TASK, jnp.where(is_text, word, lm.last))
    kinds = jnp.where(is_task, SPECIAL, jnp.where(is_text, TEXT, SPEECH))
    text = text.replace(
        head=text.head + is_text,
        num_waiting=text.num_waiting - is_text,
        unread=text.unread - reads,
    )
    return ids, kinds, text


def _emit(
    lm: DecodeState,
    text: TextState,
    logits: jax.Array,
    speaks: jax.Array,
    config: TextSpeechLMConfig,
    sampling: SamplingConfig,
    sampler: Sampler,
) -> tuple[DecodeState, TextState]:
    """Draws an id for each row that `speaks` and records it, the end of its block or of the row.

    In a block eos is forbidden, any other end id is `fill`, and the last position's id is forced.
    """
    too_early = ~text.tail | (lm.num_tokens < lm.min_tokens)
    logps = log_probs(logits, too_early, config, sampling)
    keys = jax.vmap(jax.random.fold_in)(lm.keys, text.num_drawn)
    ids = sampler(logps, text.recent[:, -sampling.window :], keys)
    ended = (ids >= config.codebook_size) | (~text.tail & (text.left == 0))
    taken, ends = speaks & ~ended, speaks & ended & text.tail
    # Rows that take nothing write beyond the end, where the write is dropped.
    slot = jnp.where(taken, lm.num_tokens, lm.tokens.shape[1])
    tokens = lm.tokens.at[jnp.arange(ids.shape[0]), slot].set(ids, mode="drop")
    newest = jnp.where(ended, config.fill, ids)[:, None]
    last_ids = jnp.concatenate([text.recent[:, 1:], newest], axis=1)
    text = text.replace(
        asked=text.asked | (speaks & ended & ~text.tail),
        left=text.left - taken,
        num_drawn=text.num_drawn + speaks,
        recent=jnp.where(speaks[:, None], last_ids, text.recent),
    )
    full = jnp.full_like(text.num_drawn, text.recent.shape[1])
    constant = _is_runaway(text.recent, full, sampling)
    constant &= text.num_drawn >= sampling.runaway_window
    lm = lm.replace(
        last=jnp.where(taken, ids, lm.last),
        tokens=tokens,
        num_tokens=lm.num_tokens + taken,
        finished=lm.finished | ends,
        runaway=lm.runaway | (speaks & ~ends & constant),
    )
    return lm, text
