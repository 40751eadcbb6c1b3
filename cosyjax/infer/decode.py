"""Decoding speech tokens from text and a prompt: a prefill and one jitted loop.

Official schedule (`Qwen2LM.inference`): read [sos, text, task, prompt speech], then draw and feed
one token at a time until one of the three end ids or the limit. The state is a value, so a
streaming caller runs the same loop in chunks: the tokens do not depend on how it was cut, because
randomness is a function of each row's key and of how many tokens the row already has.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from cosyjax.errors import InputError
from cosyjax.layers import stacking
from cosyjax.layers.attention import KERNELS
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, lay_out, lengthen
from cosyjax.ops import interleave
from cosyjax.ops import sampling as draws

# (log-probabilities [B, V], the last `window` ids [B, W] with -1 for none, keys [B]) -> ids [B]
Sampler = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
METHODS = ("ras", "nucleus", "random", "greedy")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn and when a sequence is given up."""

    method: str = "ras"  # ras, nucleus, random (temperature alone) or greedy
    temperature: float = 1.0  # divides the log-probabilities
    top_p: float = 0.8  # mass of the nucleus
    top_k: int = 25  # most candidates in the nucleus
    window: int = 10  # tokens in which RAS looks for a repetition
    tau: float = 0.1  # share of the window from which a token counts as repeated
    # Differs: the paper's second draw may give the repeated token again; the official code of
    # 2026 forbids it.
    remove_repeated: bool = True
    # Differs: before `min_tokens` the official code of 2026 forbids eos alone, so the other two
    # end ids still end a sequence; its earlier version drew again until none of the three came.
    forbid_all_ends: bool = False
    runaway_window: int = 100  # tokens that the runaway guard looks at; 0 turns it off
    runaway_distinct: int = 4  # fewer distinct ids than this in the window end the sequence

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method={self.method!r}; allowed: {', '.join(METHODS)}")
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and min(self.top_k, self.window) > 0):
            raise InputError(
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}, "
                f"window={self.window}: all must be above 0 and top_p at most 1"
            )


class DecodeState(struct.PyTreeNode):
    """All that a batch remembers between steps. Fixed shapes: one compilation."""

    lm: Any  # caches of the model
    last: jax.Array  # [B] int32 id drawn last, not yet fed
    tokens: jax.Array  # [B, max_length] int32 ids drawn so far, then -1
    num_tokens: jax.Array  # [B] int32
    min_tokens: jax.Array  # [B] int32 tokens before which eos is forbidden
    max_tokens: jax.Array  # [B] int32, at most max_length
    keys: jax.Array  # [B] one key per row
    finished: jax.Array  # [B] bool, an end id was drawn
    runaway: jax.Array  # [B] bool, stopped by the guard

    @property
    def done(self) -> jax.Array:
        """[B] bool: the row draws nothing more."""
        return self.finished | self.runaway | (self.num_tokens >= self.max_tokens)


class Generated(struct.PyTreeNode):
    """What `generate` returns."""

    tokens: jax.Array  # [B, max_length] int32 speech tokens, -1 beyond num_tokens
    num_tokens: jax.Array  # [B] int32
    finished: jax.Array  # [B] bool: the model ended the sequence itself
    runaway: jax.Array  # [B] bool: the guard ended it


def prepare_for_decode(
    params: Mapping[str, Any], config: TextSpeechLMConfig
) -> tuple[dict[str, Any], TextSpeechLMConfig]:
    """Returns parameters and config in the form that decodes fastest: unstacked and fused.

    A scan over layers copies each layer's weights every step (a third of the speed on a CPU).
    Kernels are bfloat16 where every product is, otherwise float32.
    """
    tree = stacking.unstack_layers(params) if config.scan_layers else dict(params)
    tree = tree if config.fused else stacking.fuse(tree)
    tree = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
    if config.compute == config.row_compute == "bfloat16":
        tree = stacking.round_kernels(tree)
    return tree, dataclasses.replace(config, fused=True, scan_layers=False, remat="none")


def prefill_params(params: Any, config: TextSpeechLMConfig) -> Any:
    """Returns the parameters in the form that reads many positions at once; None for `params`.

    With bfloat16 products of many rows and float32 ones of a single row (a CPU), the kernels are
    held a second time, rounded: rounding them in every call takes as long as the products.
    """
    if config.compute == "bfloat16" and config.row_compute != "bfloat16":
        return stacking.round_kernels(params)
    return None


def generate(
    model: TextSpeechLM,
    params: Any,
    *,
    text_tokens: jax.Array,
    num_text: jax.Array,
    prompt_speech: jax.Array,
    num_prompt_speech: jax.Array,
    min_tokens: jax.Array,
    max_tokens: jax.Array,
    key: jax.Array,
    sampling: SamplingConfig = SamplingConfig(),
    max_length: int,
    prefill: Any = None,
    sampler: Sampler | None = None,
) -> Generated:
    """Decodes whole sequences.

    Args:
      model: the language model.
      params: its parameters, best from `prepare_for_decode`.
      text_tokens: [B, S] int32, the prompt's text followed by the text, padded on the right.
      num_text: [B] int32.
      prompt_speech: [B, T] int32, padded on the right; T may be 0.
      num_prompt_speech: [B] int32.
      min_tokens: [B] int32 tokens before which eos is forbidden.
      max_tokens: [B] int32 limit of each row.
      key: one key for the batch (each row then uses its number in it) or [B] keys.
      sampling: how to draw.
      max_length: static size of the result, at least every max_tokens.
      prefill: parameters that read the prompt, from `prefill_params`; None for `params`.
      sampler: a pure function to use instead of the one that `sampling` describes.
    """
    reader = params if prefill is None else prefill
    prompt = (text_tokens, num_text, prompt_speech, num_prompt_speech)
    limits = (min_tokens, max_tokens)
    options: dict[str, Any] = {"sampling": sampling, "sampler": sampler}
    state = start(model, reader, prompt, limits, key, max_length=max_length, **options)
    state = decode_chunk(model, params, state, max_length, **options)
    return Generated(state.tokens, state.num_tokens, state.finished, state.runaway)


@functools.partial(jax.jit, static_argnames=("model", "max_length", "sampling", "sampler"))
def start(
    model: TextSpeechLM,
    params: Any,
    prompt: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    limits: tuple[jax.Array, jax.Array],
    key: jax.Array,
    *,
    max_length: int,
    sampling: SamplingConfig = SamplingConfig(),
    sampler: Sampler | None = None,
) -> DecodeState:
    """Reads the prompt and draws the first token of each row.

    Args:
      model: the language model.
      params: its parameters.
      prompt: (text_tokens, num_text, prompt_speech, num_prompt_speech) as in `generate`.
      limits: (min_tokens, max_tokens), [B] int32 each.
      key: one key or [B] keys.
      max_length: tokens that the state has room for.
      sampling: how to draw.
      sampler: a pure function to use instead.
    """
    layout = lay_out(model.config, *prompt, with_targets=False)
    batch, length = layout.ids.shape
    given = layout.ids, layout.kinds, layout.lengths
    if model.config.attention in KERNELS:
        read: Any = model.apply({"params": params}, *given, method="prefill")
        logits, lm = read
    else:
        empty = model.apply({"params": params}, batch, length, method="init_state")
        logits, lm = _predict(model, params, *given, empty)
    none = jnp.zeros((batch,), jnp.int32)
    state = DecodeState(
        lm=lengthen(lm, length + max_length),
        last=none,
        tokens=jnp.full((batch, max_length), -1, jnp.int32),
        num_tokens=none,
        min_tokens=jnp.broadcast_to(limits[0], (batch,)).astype(jnp.int32),
        max_tokens=jnp.minimum(jnp.broadcast_to(limits[1], (batch,)), max_length).astype(jnp.int32),
        keys=row_keys(key, batch),
        finished=none > 0,
        runaway=none > 0,
    )
    return _emit(state, logits, model.config, sampling, sampler or make_sampler(sampling))


@functools.partial(
    jax.jit, static_argnames=("model", "sampling", "sampler"), donate_argnames=("state",)
)
def decode_chunk(
    model: TextSpeechLM,
    params: Any,
    state: DecodeState,
    num_steps: int | jax.Array,
    *,
    sampling: SamplingConfig = SamplingConfig(),
    sampler: Sampler | None = None,
) -> DecodeState:
    """Draws up to `num_steps` further tokens for each row that is not done; `state` is consumed."""
    drawer = sampler or make_sampler(sampling)
    kinds = jnp.full((state.last.shape[0], 1), interleave.SPEECH, jnp.int32)

    def unfinished(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
        return (carry[0] < num_steps) & ~jnp.all(carry[1].done)

    def body(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
        index, state = carry
        live = (~state.done).astype(jnp.int32)  # a row that is done leaves its cache as it is
        logits, lm = _predict(model, params, state.last[:, None], kinds, live, state.lm)
        state = _emit(state.replace(lm=lm), logits, model.config, sampling, drawer)
        return index + 1, state

    return jax.lax.while_loop(unfinished, body, (jnp.int32(0), state))[1]


def _predict(
    model: TextSpeechLM, params: Any, ids: jax.Array, kinds: jax.Array, lengths: jax.Array, lm: Any
) -> tuple[jax.Array, Any]:
    """`predict_next`, with the operand type that suits the number of rows."""
    if ids.size == 1:
        model = TextSpeechLM(dataclasses.replace(model.config, compute=model.config.row_compute))
    return model.apply({"params": params}, ids, kinds, lengths, lm, method="predict_next")


def _emit(
    state: DecodeState,
    logits: jax.Array,
    config: TextSpeechLMConfig,
    sampling: SamplingConfig,
    sampler: Sampler,
) -> DecodeState:
    """Draws an id for each live row and records it, or the end of the row."""
    logps = log_probs(logits, state.num_tokens < state.min_tokens, config, sampling)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.num_tokens)
    ids = sampler(logps, recent(state.tokens, state.num_tokens, sampling.window), keys)
    live = ~state.done
    ended = live & (ids >= config.codebook_size)
    taken = live & ~ended
    # Rows that take nothing write beyond the end, where the write is dropped.
    slot = jnp.where(taken, state.num_tokens, state.tokens.shape[1])
    tokens = state.tokens.at[jnp.arange(ids.shape[0]), slot].set(ids, mode="drop")
    num_tokens = state.num_tokens + taken
    return state.replace(
        last=jnp.where(taken, ids, state.last),
        tokens=tokens,
        num_tokens=num_tokens,
        finished=state.finished | ended,
        runaway=state.runaway | (taken & _is_runaway(tokens, num_tokens, sampling)),
    )


def log_probs(
    logits: jax.Array, too_early: jax.Array, config: TextSpeechLMConfig, sampling: SamplingConfig
) -> jax.Array:
    """[B, V] log-probabilities; ends are forbidden where `too_early` [B]."""
    logps = jax.nn.log_softmax(logits / sampling.temperature, axis=-1)
    ids = jnp.arange(logits.shape[-1])
    ends = ids >= config.eos if sampling.forbid_all_ends else ids == config.eos
    return jnp.where(too_early[:, None] & ends, -jnp.inf, logps)


def make_sampler(config: SamplingConfig) -> Sampler:
    """Returns the pure sampling function that the config describes."""

    def sampler(logps: jax.Array, recent_ids: jax.Array, keys: jax.Array) -> jax.Array:
        if config.method == "greedy":
            return draws.greedy(logps)
        if config.method == "random":
            return draws.draw(logps, keys)
        if config.method == "nucleus":
            return draws.draw_nucleus(draws.nucleus(logps, config.top_p, config.top_k), keys)
        return draws.repetition_aware(
            logps,
            recent_ids,
            keys,
            top_p=config.top_p,
            top_k=config.top_k,
            tau=config.tau,
            remove_repeated=config.remove_repeated,
        )

    return sampler


def recent(tokens: jax.Array, num_tokens: jax.Array, window: int) -> jax.Array:
    """Returns the last `window` of tokens[b, :num_tokens[b]], [B, window], -1 where none."""
    index = num_tokens[:, None] - window + jnp.arange(window)
    ids = jnp.take_along_axis(tokens, jnp.clip(index, 0, tokens.shape[1] - 1), axis=1)
    return jnp.where(index >= 0, ids, -1)


def _is_runaway(tokens: jax.Array, num_tokens: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """[B] bool: the last `runaway_window` tokens hold too few distinct ids."""
    window = sampling.runaway_window
    if window <= 0:
        return jnp.zeros(num_tokens.shape, bool)
    ids = jnp.sort(recent(tokens, num_tokens, window), axis=1)
    distinct = 1 + jnp.sum(ids[:, 1:] != ids[:, :-1], axis=1)
    return (num_tokens >= window) & (distinct < sampling.runaway_distinct)


def row_keys(key: jax.Array, batch: int) -> jax.Array:
    """Returns [B] keys: `key` itself where it already is one per row."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim == 1:
        if key.shape[0] != batch:
            raise InputError(f"{key.shape[0]} keys for {batch} rows; give one key or one per row")
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
