"""Decoding while the text still arrives (`Qwen2LM.inference_bistream`).

The sequence is the bistream layout of `ops.interleave`: n text tokens, then m speech tokens, and
so on. The model asks for text by drawing `fill`, which is never fed; after m speech tokens it is
taken to have asked. When the text has ended, the rest of it and the task id follow and decoding
runs to the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.infer.decode import Sampler, SamplingConfig, _predict, log_probs, make_sampler
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, lay_out, lengthen
from cosyjax.ops.interleave import SPECIAL, SPEECH, TASK, TEXT, Layout

Position = tuple[int, int]  # (kind, id)
SMALLEST_BUCKET = 8  # positions; longer inputs are padded to the next power of two
FIRST_CAPACITY = 256  # positions; the cache doubles when they are used up


@dataclasses.dataclass(frozen=True)
class BistreamOptions:
    """Choices of one text-streaming session."""

    sampling: SamplingConfig = SamplingConfig()  # how to draw
    max_tokens: int = 4096  # speech tokens after which the session ends (officially no limit)
    # Differs: training sequences have no such token, but the official code feeds the last speech
    # token a second time when the text ends.
    duplicate_last_token: bool = True


def generate_bistream(
    model: TextSpeechLM,
    params: Any,
    text: Iterable[Sequence[int] | np.ndarray],
    *,
    prompt_text: Sequence[int] = (),
    prompt_speech: Sequence[int] = (),
    key: jax.Array,
    options: BistreamOptions = BistreamOptions(),
    sampler: Sampler | None = None,
) -> Iterator[int]:
    """Yields speech tokens of one sequence as soon as the text allows.

    Differs: where the model draws an end id out of place, the official code raises. Here the
    unused id counts as fill while the text arrives, and any end id ends the final pass.

    Args:
      model: the language model.
      params: its parameters.
      text: pieces of text tokens as they arrive; each piece allows at most one block.
      prompt_text: text tokens of the prompt.
      prompt_speech: speech tokens of the prompt.
      key: source of randomness.
      options: how to draw, when to give up.
      sampler: used instead of the one that `options.sampling` describes.
    """
    session = _Session(model, params, key, options, sampler)
    config, (n, m) = model.config, model.config.mix_ratio
    waiting, unpaired = list(prompt_text), list(prompt_speech)
    paired: tuple[list[int], list[int]] = ([], [])
    session.next_fill = m - len(unpaired) % m
    for piece in text:
        waiting += [int(token) for token in piece]
        while unpaired and len(waiting) >= n:
            paired = paired[0] + waiting[:n], paired[1] + unpaired[:m]
            waiting, unpaired = waiting[n:], unpaired[m:]
        if unpaired:
            continue
        asked = session.drawn[-1] == config.fill if session.drawn else not paired[0]
        if asked and len(waiting) < n:
            continue
        pending = [] if session.drawn else _prompt(config, *paired)
        if asked:
            pending += [(TEXT, i) for i in waiting[:n]]
            waiting = waiting[n:]
        yield from session.speak_block(pending)
    if not session.drawn:
        pending = _prompt(config, *paired)
    else:
        pending = session.last_fed if options.duplicate_last_token else []
    pending = pending + [(TEXT, i) for i in waiting] + [(SPECIAL, TASK)]
    while not session.exhausted:
        token = session.advance(pending, None, streaming=False)
        if token >= config.codebook_size:
            return
        yield token
        pending = [(SPEECH, token)]


class _Session:
    """The cache, the ids drawn so far and the jitted step of one text-streaming session."""

    def __init__(
        self,
        model: TextSpeechLM,
        params: Any,
        key: jax.Array,
        options: BistreamOptions,
        sampler: Sampler | None,
    ) -> None:
        self.model, self.params, self.key, self.options = model, params, key, options
        self.sampler = sampler or _jitted_sampler(options.sampling)
        self.drawn: list[int] = []  # fill included
        self.next_fill = 0  # ids after which the model is taken to ask for text
        self.last_fed: list[Position] = []
        self.capacity, self.position = FIRST_CAPACITY, 0
        variables = {"params": params}
        self.lm = model.apply(variables, 1, self.capacity, method="init_state")

    @property
    def exhausted(self) -> bool:
        """The limit is reached, or the last tokens are all but constant."""
        sampling, drawn = self.options.sampling, self.drawn
        window = sampling.runaway_window
        constant = 0 < window <= len(drawn) and (
            len(set(drawn[-window:])) < sampling.runaway_distinct
        )
        return constant or len(drawn) >= self.options.max_tokens

    def speak_block(self, pending: list[Position]) -> Iterator[int]:
        """Feeds `pending` and yields tokens until the model asks for text."""
        config = self.model.config
        while not self.exhausted:
            forced = config.fill if len(self.drawn) == self.next_fill else None
            token = self.advance(pending, forced, streaming=True)
            if token == config.fill:
                self.next_fill = len(self.drawn) + config.mix_ratio[1]
                return
            yield token
            pending = [(SPEECH, token)]

    def advance(self, pending: list[Position], forced: int | None, *, streaming: bool) -> int:
        """Feeds `pending` and draws the next id, or takes the forced one."""
        logps, self.last_fed = self._feed(pending, streaming), pending
        token = forced
        if token is None:
            window = self.options.sampling.window
            ids = ([-1] * window + self.drawn)[-window:]
            keys = jax.random.fold_in(self.key, len(self.drawn))[None]
            token = int(self.sampler(logps, jnp.asarray([ids], jnp.int32), keys)[0])
        config = self.model.config
        if streaming and token >= config.codebook_size:
            token = config.fill
        self.drawn.append(token)
        return token

    def _feed(self, pending: list[Position], streaming: bool) -> jax.Array:
        """Puts `pending` into the cache; returns log-probabilities [1, V] of what follows."""
        num = len(pending)
        bucket = _bucket(num)
        while self.position + bucket > self.capacity:
            self.capacity *= 2
            self.lm = lengthen(self.lm, self.capacity)
        columns = np.zeros((2, 1, bucket), np.int32)
        columns[:, 0, :num] = np.asarray(pending, np.int32).T
        arguments = (self.lm, columns[1], columns[0], np.asarray([num], np.int32), streaming)
        logps, self.lm = _step(self.model, self.params, *arguments, sampling=self.options.sampling)
        self.position += num
        return logps


@functools.partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames=("lm",))
def _step(
    model: TextSpeechLM,
    params: Any,
    lm: Any,
    ids: jax.Array,
    kinds: jax.Array,
    lengths: jax.Array,
    streaming: bool | jax.Array,
    *,
    sampling: SamplingConfig,
) -> tuple[jax.Array, Any]:
    """Log-probabilities [1, V] after the last valid position, eos forbidden while streaming."""
    logits, lm = _predict(model, params, ids, kinds, lengths, lm)
    return log_probs(logits, jnp.asarray(streaming)[None], model.config, sampling), lm


@functools.lru_cache(maxsize=8)
def _jitted_sampler(sampling: SamplingConfig) -> Sampler:
    return jax.jit(make_sampler(sampling))


def _prompt(config: TextSpeechLMConfig, text: list[int], speech: list[int]) -> list[Position]:
    """sos and the blocks that pair prompt text with prompt speech; the last may be short."""
    columns = [np.zeros((1, _bucket(len(ids))), np.int32) for ids in (text, speech)]
    lengths = [np.asarray([len(ids)], np.int32) for ids in (text, speech)]
    for column, ids in zip(columns, (text, speech), strict=True):
        column[0, : len(ids)] = ids
    layout = _lay_out_prompt(config, columns[0], lengths[0], columns[1], lengths[1])
    num = 1 + len(text) + len(speech)
    rows = np.stack([layout.kinds[0, :num], layout.ids[0, :num]], axis=1)
    return [(int(kind), int(index)) for kind, index in rows]


def _bucket(num: int) -> int:
    return 1 if num == 1 else max(SMALLEST_BUCKET, 1 << (num - 1).bit_length())


@functools.partial(jax.jit, static_argnums=0)
def _lay_out_prompt(config: TextSpeechLMConfig, *prompt: jax.Array) -> Layout:
    return lay_out(config, *prompt, bistream=jnp.ones((1,), bool), with_targets=False)
