"""Rows of a batch that decodes: free ones, and ones that begin while the others go on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import buckets, speak
from cosyjax.infer.decode import DecodeState, SamplingConfig, start
from cosyjax.infer.speak import Conditions, SynthesisConfig
from cosyjax.infer.stages import Stage
from cosyjax.layers.attention import KVCache
from cosyjax.models.text_speech_lm import TextSpeechLM, lengthen


def idle(model: TextSpeechLM, batch: int, length: int, max_tokens: int) -> DecodeState:
    """Returns the state of `batch` rows that draw nothing.

    Args:
      model: the language model.
      batch: rows.
      length: positions of the caches.
      max_tokens: speech tokens that a row has room for.
    """
    begin = lambda key: model.init_with_output(key, batch, length, method="init_state")[0]
    shape: Any = jax.eval_shape(begin, jax.random.key(0))
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


def prompt_length(num_text: int, num_speech: int) -> int:
    """Positions that the LM's prompt takes: two marks, the text and the prompt's speech, padded."""
    text = buckets.bucket(num_text, buckets.TEXT_TOKENS, "text tokens")
    return 2 + text + buckets.bucket(num_speech, buckets.PROMPT_TOKENS, "prompt speech tokens")
