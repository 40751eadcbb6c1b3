"""Rows of a batch that decodes: free ones, and ones that begin while the others go on."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import buckets, decode_text, speak
from cosyjax.infer.decode import DecodeState, SamplingConfig, start
from cosyjax.infer.decode_text import TextState
from cosyjax.infer.speak import Conditions, SynthesisConfig
from cosyjax.infer.stages import Stage
from cosyjax.layers.attention import KVCache
from cosyjax.models.text_speech_lm import TextSpeechLM, lengthen

NO_PROMPT = (np.zeros((1, 0), np.int32), np.zeros(1, np.int32)) * 2  # as of `speak.lm_prompt`


def idle(model: TextSpeechLM, batch: int, length: int, max_tokens: int) -> DecodeState:
    """Returns the state of `batch` rows that draw nothing.

    Args:
      model: the language model.
      batch: rows.
      length: positions of the caches.
      max_tokens: speech tokens that a row has room for.
    """
    shape = _cache_shape(model, batch, length)
    none = lambda: jnp.zeros((batch,), jnp.int32)  # donated later, so no two fields share one
    return DecodeState(
        lm=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape),
        last=none(),
        tokens=jnp.full((batch, max_tokens), -1, jnp.int32),
        num_tokens=none(),
        min_tokens=none(),
        max_tokens=none(),
        keys=jnp.broadcast_to(jax.random.key(0), (batch,)),
        finished=jnp.zeros((batch,), bool),
        runaway=jnp.zeros((batch,), bool),
    )


@functools.lru_cache(maxsize=64)
def _cache_shape(model: TextSpeechLM, batch: int, length: int) -> Any:
    """Shapes of the caches; found out once, because it takes a trace of the model."""
    begin = lambda key: model.init_with_output(key, batch, length, method="init_state")[0]
    return jax.eval_shape(begin, jax.random.key(0))


def put_row(state: DecodeState, row: jax.Array | int, one: DecodeState) -> DecodeState:
    """Writes a state of one row over row number `row`; its caches are as long or shorter."""
    cache_put = lambda old, new: _put_cache(old, new, row)
    is_cache = lambda node: isinstance(node, KVCache)
    put = lambda old, new: old.at[row].set(new[0])
    lm = jax.tree.map(cache_put, state.lm, one.lm, is_leaf=is_cache)
    rest = jax.tree.map(put, state.replace(lm=None), one.replace(lm=None))
    return rest.replace(lm=lm)


def _put_cache(old: KVCache, new: KVCache, row: jax.Array | int) -> KVCache:
    new = new.lengthened(old.v.shape[-2])
    heads = new.k.shape[0]
    put = lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, row * heads, 0)
    return KVCache(put(old.k, new.k), put(old.v, new.v), old.position.at[row].set(new.position[0]))


def start_row(
    lm: Stage,
    text_tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    config: SynthesisConfig,
    max_tokens: int,
    lm_length: int,
) -> DecodeState:
    """Reads a piece of text behind a prompt and draws the first token, as a batch of one.

    The tokens are those of `speak.text_to_tokens` with the same key, as long as the runaway guard
    does not make that draw again.

    Args:
      lm: the language model.
      text_tokens: [S] of the piece.
      conditions: the voice.
      key: decides every draw.
      sampling: how to draw.
      config: length ratios.
      max_tokens: of the batch that the row will join.
      lm_length: positions of that batch's caches.

    Raises:
      InputError: prompt, text and speech are longer than the caches.
    """
    text = np.concatenate([conditions.lm_text_tokens, text_tokens]).astype(np.int32)
    fewest, most = speak.token_limits(len(text_tokens), config)
    prompt = speak.lm_prompt(text, conditions.lm_speech_tokens)
    most = min(most, max_tokens)
    needed = prompt_length(len(text), len(conditions.lm_speech_tokens)) + max_tokens
    if needed > lm_length:
        raise InputError(
            f"prompt and text take {needed} positions; this stream was made for {lm_length}: "
            "split the text, or make the stream longer"
        )
    limits = jnp.array([min(fewest, most)], jnp.int32), jnp.array([most], jnp.int32)
    state = start(
        lm.model,
        lm.params if lm.prefill is None else lm.prefill,
        prompt,
        limits,
        jax.random.fold_in(key, speak.LM_STREAM),
        max_length=max_tokens,
        sampling=sampling,
    )
    return state.replace(lm=lengthen(state.lm, lm_length))


def start_text_row(
    lm: Stage,
    text_tokens: np.ndarray,
    conditions: Conditions,
    key: jax.Array,
    *,
    sampling: SamplingConfig,
    config: SynthesisConfig,
    max_tokens: int,
    lm_length: int,
    text_room: int,
    final: bool = False,
) -> tuple[DecodeState, TextState]:
    """Begins a row whose text arrives while it speaks, as a batch of one.

    A voice without prompt speech begins with any text, or none. Prompt speech is read in blocks
    with the prompt's text and the new one, so it waits for `missing_text` tokens; a text that ends
    before is followed by `task` and the rest of the prompt's speech, as in training.
    Differs: `decode_bistream` (the official code) then forgets that rest, and speaks its text.
    `config` limits the tokens once the text has ended; until then the blocks do.

    Args:
      lm: the language model.
      text_tokens: [S] the beginning of the text; the rest follows by `feed_text.feed_text`.
      conditions: the voice.
      key: decides every draw.
      sampling: how to draw.
      config: length ratios.
      max_tokens: as the next two, of the batch that the row will join.
      lm_length: positions of its caches.
      text_room: text tokens that may wait.
      final: the text is complete.

    Raises:
      InputError: the prompt needs more text, or the text needs more room.
    """
    ratio, num_new = lm.model.config.mix_ratio, len(text_tokens)
    text = np.concatenate([conditions.lm_text_tokens, text_tokens]).astype(np.int32)
    speech = conditions.lm_speech_tokens
    if final and not num_new:
        text = speech = speak.NO_TOKENS  # nothing will be said, so nothing is read
    budget = text_budget(ratio, len(speech), max_tokens, lm_length) - len(text)
    _check_beginning(0 if final else missing_text(ratio, conditions) - num_new, len(text), budget)
    state = decode_text.no_text(1, text_room, ratio[0], sampling)
    num_read, state = _read_blocks(state, text, len(speech), ratio[1])
    one = lambda value: np.array([value], np.int32)
    state = state.replace(num_text=one(num_new), budget=one(budget), final=one(final) > 0)
    return decode_text.start_text(
        *(lm.model, lm.params if lm.prefill is None else lm.prefill),
        speak.lm_prompt(text[:num_read], speech) if num_read else NO_PROMPT,
        one(1 + num_read + int(state.tail[0]) + len(speech)),  # sos first, task in a tail
        state.replace(ratios=_ratios(config)),
        jax.random.fold_in(key, speak.LM_STREAM),
        sampling=sampling,
        max_tokens=max_tokens,
        lm_length=lm_length,
    )


def _read_blocks(
    blank: TextState, text: np.ndarray, num_speech: int, m: int
) -> tuple[int, TextState]:
    """Text tokens that are read with a prompt's speech, and the state of the row after that.

    The row goes on with the prompt's last block, whose speech may be short. Without any it asks
    for text; without the text of all blocks it has read all there is, and stands in its tail.
    """
    paired = -(-num_speech // m) * blank.block
    waiting, room = text[paired:], blank.waiting.shape[1]
    if len(waiting) > room:
        raise InputError(
            f"{len(waiting)} text tokens would wait; this stream holds {room}: begin with the "
            "first of them and feed the others as they are read"
        )
    return min(paired, len(text)), blank.replace(
        waiting=buckets.pad_to(waiting, room)[None],
        num_waiting=np.array([len(waiting)], np.int32),
        asked=np.array([not num_speech]),
        tail=np.array([paired > len(text)]),
        left=np.array([m - num_speech % m], np.int32),
    )


def _ratios(config: SynthesisConfig) -> np.ndarray:
    fewest, most = config.min_tokens_per_text_token, config.max_tokens_per_text_token
    return np.array([[fewest, most]], np.float32)


def missing_text(ratio: tuple[int, int], conditions: Conditions) -> int:
    """Text tokens without which a voice cannot begin, unless its text ends: its prompt's blocks."""
    blocks = -(-len(conditions.lm_speech_tokens) // ratio[1])
    return max(blocks * ratio[0] - len(conditions.lm_text_tokens), int(blocks > 0))


def text_budget(ratio: tuple[int, int], num_speech: int, max_tokens: int, lm_length: int) -> int:
    """Text tokens, those of the prompt included, that one piece can take and never lose.

    All positions fit into the cache, and `max_tokens` is not reached before the tail.
    """
    n, m = ratio
    first = m - num_speech % m  # speech tokens that the block drawn first has room for
    blocks = max(-(-num_speech // m), 1) + (max_tokens - 1 - first) // m
    return min(lm_length - 2 - num_speech - max_tokens, n * (blocks + 1) - 1)


def _check_beginning(num_missing: int, num_text: int, budget: int) -> None:
    if num_missing > 0:
        raise InputError(
            f"this voice's prompt needs {num_missing} more text tokens before it can speak: begin "
            "once they are there, or the text has ended"
        )
    if budget < 0:
        raise InputError(
            f"prompt and text take {num_text} text tokens; this stream has room for "
            f"{max(budget + num_text, 0)}: begin with less text, or make the stream longer"
        )


def prompt_length(num_text: int, num_speech: int) -> int:
    """Positions that the LM's prompt takes: two marks, the text and the prompt's speech, padded."""
    text = buckets.bucket(num_text, buckets.TEXT_TOKENS, "text tokens")
    return 2 + text + buckets.bucket(num_speech, buckets.PROMPT_TOKENS, "prompt speech tokens")
