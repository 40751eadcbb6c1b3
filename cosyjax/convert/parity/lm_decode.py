"""Golden files of the language model: decoding from a prompt and while the text arrives."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.infer.decode import SamplingConfig, generate, log_probs
from cosyjax.infer.decode_bistream import BistreamOptions, generate_bistream
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, lay_out
from cosyjax.ops import sampling as draws
from cosyjax.ops.interleave import SPEECH, Layout

MASKED = -1e9  # how the files write minus infinity
NOVELTY = 12  # ids that the text-streaming hook of the files avoids

Tensors = Mapping[str, np.ndarray]

lay_out_fast = jax.jit(lay_out, static_argnums=0, static_argnames=("with_targets",))
log_probs_fast = jax.jit(log_probs, static_argnums=(2, 3))


@functools.partial(jax.jit, static_argnames=("model",))
def forward(model: TextSpeechLM, params: Any, layout: Layout) -> dict[str, Any]:
    """The final hidden state and the logits of every position, without a cache."""
    run = lambda method: model.apply({"params": params}, layout, method=method)
    return {"hidden": run("hidden"), "logits": run("__call__")}


@functools.partial(jax.jit, static_argnames=("model",))
def _next(
    model: TextSpeechLM, params: Any, state: Any, ids: jax.Array, kinds: jax.Array, num: jax.Array
) -> tuple[jax.Array, Any]:
    """Logits after the last valid position, through the cache."""
    return model.apply({"params": params}, ids, kinds, num, state, method="predict_next")


def cut(layout: Layout) -> Layout:
    """Drops the columns that no row uses, as the official collation does."""
    ids, kinds, targets, lengths = jax.device_get(layout)
    longest = int(np.max(lengths))
    return Layout(ids[:, :longest], kinds[:, :longest], targets[:, :longest], lengths)


def _argmax(logps: jax.Array, recent: jax.Array, keys: jax.Array) -> jax.Array:
    del recent, keys
    return draws.greedy(logps)


def _argmax_without_repeats(logps: jax.Array, recent: jax.Array, keys: jax.Array) -> jax.Array:
    del keys
    rows = jnp.arange(logps.shape[0])[:, None]
    index = jnp.where(recent < 0, logps.shape[1], recent)
    return draws.greedy(logps.at[rows, index].set(-jnp.inf, mode="drop"))


def _ratios(fixture: Fixture) -> tuple[float, float]:
    """Least and most speech tokens per text token, which the files state in words."""
    found = re.search(
        r"min ratio (\d+(?:\.\d+)?)\D+?max ratio (\d+(?:\.\d+)?)", fixture.meta["description"]
    )
    default = (2.0, 2.2) if found is None else (float(found[1]), float(found[2]))
    config = fixture.config
    return (
        float(config.get("min_token_text_ratio", default[0])),
        float(config.get("max_token_text_ratio", default[1])),
    )


def decode(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    """Checks tokens and log-probabilities of cached decoding, with and without a prompt."""
    num_text = inputs["text"].shape[1]
    least, most = (int(num_text * ratio) for ratio in _ratios(fixture))
    for name in sorted(n for n in outputs if n.endswith("_tokens")):
        stem = name.removesuffix("_tokens")
        prompt = _decode_prompt(inputs, with_prompt="noprompt" not in stem)
        sampler = _argmax_without_repeats if stem.startswith("norepeat") else _argmax
        sampling = SamplingConfig(window=most, runaway_window=0)
        result = generate(
            model,
            params,
            text_tokens=jnp.asarray(prompt[0]),
            num_text=jnp.asarray(prompt[1]),
            prompt_speech=jnp.asarray(prompt[2]),
            num_prompt_speech=jnp.asarray(prompt[3]),
            min_tokens=jnp.asarray([least]),
            max_tokens=jnp.asarray([most]),
            key=jax.random.key(0),
            sampling=sampling,
            max_length=most,
            sampler=sampler,
        )
        tokens = np.asarray(result.tokens)[0, : int(result.num_tokens[0])]
        yield Check(name, tokens, outputs[name])
        if f"{stem}_logp" in outputs:
            rows = len(tokens) + int(result.finished[0])
            logps = _replay(model, params, prompt, tokens, (rows, least, most))
            if sampler is _argmax_without_repeats:  # which the files' hook does in place
                for index in range(rows):
                    logps[index, tokens[:index]] = -np.inf
            yield _masked_check(f"{stem}_logp", logps, outputs[f"{stem}_logp"])
    yield from _teacher_forced(model, params, inputs, outputs)


def _decode_prompt(inputs: Tensors, *, with_prompt: bool) -> tuple[np.ndarray, ...]:
    """Text, its length, prompt speech, its length; equally wide with and without the prompt."""
    prompt_text, text = inputs["prompt_text"], inputs["text"]
    speech = inputs["prompt_speech_token"]
    order = (prompt_text, text) if with_prompt else (text, prompt_text)
    num_text = text.shape[1] + with_prompt * prompt_text.shape[1]
    arrays = (np.concatenate(order, axis=1), [num_text], speech, [with_prompt * speech.shape[1]])
    return tuple(np.asarray(x, np.int32) for x in arrays)


def _replay(
    model: TextSpeechLM,
    params: Any,
    prompt: tuple[np.ndarray, ...],
    tokens: np.ndarray,
    limits: tuple[int, int, int],
) -> np.ndarray:
    """The log-probabilities of every step, from the cached path with the given tokens.

    `limits`: rows wanted, tokens before which eos is forbidden, most tokens.
    """
    num_rows, min_tokens, max_tokens = limits
    layout = lay_out_fast(model.config, *prompt, with_targets=False)
    capacity = layout.ids.shape[1] + max_tokens + 1
    begin = lambda: model.apply({"params": params}, 1, capacity, method="init_state")
    state = jax.jit(begin)()
    logits, state = _next(model, params, state, layout.ids, layout.kinds, layout.lengths)
    rows, one = [], np.ones((1,), np.int32)
    for index in range(num_rows):
        early = np.asarray([index < min_tokens])
        logps = log_probs_fast(logits, early, model.config, SamplingConfig())
        rows.append(np.asarray(logps)[0])
        if index + 1 < num_rows:
            ids = np.asarray([[tokens[index]]], np.int32)
            logits, state = _next(model, params, state, ids, np.full_like(ids, SPEECH), one)
    return np.stack(rows)


def _masked_check(name: str, logps: np.ndarray, expected: np.ndarray) -> Check:
    """The files write -1e9 where an id is forbidden, which would hide every other difference."""
    forbidden = expected <= MASKED / 2
    if logps.shape != expected.shape:
        return Check(name, logps, expected)
    if not np.array_equal(np.isneginf(logps), forbidden):
        return Check(name, np.full_like(expected, np.nan), expected)
    return Check(name, np.where(forbidden, 0.0, logps), np.where(forbidden, 0.0, expected))


def _teacher_forced(
    model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    """One pass without a cache over the prompt and the tokens that do not repeat."""
    if "teacher_forced_hidden" not in outputs:
        return
    text, num_text, speech, _ = _decode_prompt(inputs, with_prompt=True)
    tokens = np.asarray(outputs["norepeat_prompt_tokens"], np.int32)[None]
    speech = np.concatenate([speech, tokens], axis=1)
    # The file may leave out the last token, which decoding never fed.
    length = outputs["teacher_forced_hidden"].shape[1]
    num_speech = np.asarray([length - int(num_text[0]) - 2], np.int32)
    layout = cut(lay_out_fast(model.config, text, num_text, speech, num_speech))
    for kind, actual in forward(model, params, layout).items():
        name = f"teacher_forced_{kind}"
        if name in outputs:
            yield Check(name, actual, outputs[name])


class _BistreamHook:
    """The sampler of the files: argmax over recent novelty, an end after so many free calls."""

    def __init__(self, config: TextSpeechLMConfig, end_after: int, *, fills_count: bool) -> None:
        self.config, self.end_after, self.fills_count = config, end_after, fills_count
        self.rows: list[np.ndarray] = []
        self.free_calls = 0

    def __call__(self, logps: jax.Array, recent: jax.Array, keys: jax.Array) -> jax.Array:
        del keys
        row, size = np.array(logps[0]), self.config.codebook_size
        self.rows.append(row.copy())
        text_has_ended = np.isfinite(row[self.config.eos])
        seen = [int(token) for token in np.asarray(recent[0]) if token >= 0]
        last = seen if self.fills_count else [token for token in seen if token < size]
        row[[token for token in last[-NOVELTY:] if token < size] + [size + 1]] = -np.inf
        if text_has_ended:
            self.free_calls += 1
            row[size:] = -np.inf
            if self.free_calls > self.end_after:
                return jnp.asarray([self.config.eos])
        return jnp.asarray([np.argmax(row)])


def bistream(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    """The files do not say whether fills count among the last ids that the hook avoids."""
    del fixture
    runs = (_stream(model, params, inputs, fills_count=counted) for counted in (False, True))
    fits = lambda run: np.array_equal(run[0], outputs["tokens"])
    first = next(runs)
    tokens, rows = first if fits(first) else next(filter(fits, runs), first)
    yield Check("tokens", tokens, outputs["tokens"])
    yield _masked_check("sampler_logp", rows, outputs["sampler_logp"])


def _stream(
    model: TextSpeechLM, params: Any, inputs: Tensors, *, fills_count: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and the log-probabilities that the hook saw."""
    end_after = int(inputs["forced_eos_after"])
    hook = _BistreamHook(model.config, end_after, fills_count=fills_count)
    cuts = np.cumsum(inputs["text_chunks"])[:-1]
    options = BistreamOptions(SamplingConfig(window=64, runaway_window=0))
    tokens = generate_bistream(
        model,
        params,
        np.split(inputs["text"][0], cuts),
        prompt_text=inputs["prompt_text"][0].tolist(),
        prompt_speech=inputs["prompt_speech_token"][0].tolist(),
        key=jax.random.key(0),
        options=options,
        sampler=hook,
    )
    return np.asarray(list(tokens)), np.stack(hook.rows)
