"""Golden files of the language model and of its sampler."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.convert import names_lm
from cosyjax.convert.mapping import flatten, import_tensors
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.infer.decode import SamplingConfig, generate, log_probs
from cosyjax.infer.decode_bistream import BistreamOptions, generate_bistream
from cosyjax.losses.dpo import dpo, sequence_logps
from cosyjax.losses.lm import cross_entropy
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, init_params, lay_out
from cosyjax.ops import sampling as draws
from cosyjax.ops.interleave import SPEECH, Layout, choose_bistream

MASKED = -1e9  # how the files write minus infinity
NOVELTY = 12  # ids that the text-streaming hook of the files avoids
LAST = re.compile(r"_last(\d+)$")

Tensors = Mapping[str, np.ndarray]

_lay_out = jax.jit(lay_out, static_argnums=0, static_argnames=("with_targets",))


@functools.partial(jax.jit, static_argnames=("model",))
def _forward(model: TextSpeechLM, params: Any, layout: Layout) -> dict[str, jax.Array]:
    """The final hidden state and the logits of every position, without a cache."""
    run = lambda method: model.apply({"params": params}, layout, method=method)  # noqa: E731
    return {"hidden": run("hidden"), "logits": run("__call__")}


@functools.partial(jax.jit, static_argnames=("model",))
def _next(
    model: TextSpeechLM, params: Any, state: Any, ids: jax.Array, kinds: jax.Array, num: jax.Array
) -> tuple[jax.Array, Any]:
    """Logits after the last valid position, through the cache."""
    return model.apply({"params": params}, ids, kinds, num, state, method="predict_next")


def _model(
    weights: Tensors, config: Mapping[str, Any], replaced: Tensors | None = None
) -> tuple[TextSpeechLM, Any]:
    """The module of a file's sizes and its parameters; `replaced` overrides official tensors."""
    official = dict(weights) | dict(replaced or {})
    sizes = names_lm.config_from_shapes({k: v.shape for k, v in official.items()}, config)
    shapes = jax.eval_shape(lambda key: init_params(sizes, key), jax.random.key(0))
    flat = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    params = names_lm.import_lm(official, sizes, flat, "golden file")
    return TextSpeechLM(sizes), jax.tree.map(jnp.asarray, params)


def _run_lm(fixture: Fixture) -> Iterator[Check]:
    model, params = _model(fixture.weights, fixture.config)
    parts: dict[str, Callable[..., Iterator[Check]]] = {
        "train": _train,
        "decode": _decode,
        "bistream": _bistream,
        "dpo": _dpo,
    }
    for name, run in parts.items():
        inputs, outputs = fixture.part(name)
        if outputs:
            for check in run(fixture, model, params, inputs, outputs):
                yield Check(f"{name}.{check.tensor}", check.actual, check.expected)


def _padded(inputs: Tensors, name: str) -> tuple[jax.Array, jax.Array]:
    """A token matrix and its lengths."""
    tokens = jnp.asarray(inputs[name], jnp.int32)
    lengths = inputs.get(f"{name}_len", np.full(tokens.shape[:1], tokens.shape[1]))
    return tokens, jnp.asarray(lengths, jnp.int32)


def _cut(layout: Layout) -> Layout:
    """Drops the columns that no row uses, as the official collation does."""
    longest = int(jnp.max(layout.lengths))
    return Layout(*(x[:, :longest] for x in layout[:3]), layout.lengths)


def _train(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    text, speech = _padded(inputs, "text_token"), _padded(inputs, "speech_token")
    names = {name.split("_", 1)[0] for name in outputs}
    for variant in sorted(names):
        draw = np.asarray(inputs["random_draws"]) if variant != "uni" else np.ones(len(text[0]))
        bistream = choose_bistream(jnp.asarray(draw), text[1], speech[1], model.config.mix_ratio)
        layout = _cut(_lay_out(model.config, *text, *speech, bistream=bistream))
        logits = _forward(model, params, layout)["logits"]
        loss = cross_entropy(logits, layout.targets, float(fixture.config.get("lsm", 0.0)))
        valid = jnp.arange(logits.shape[1]) < layout.lengths[:, None]
        found = {
            "loss": loss.mean,
            "acc": loss.accuracy,
            "target": layout.targets,
            "input_len": layout.lengths,
            "logits": jnp.where(valid[..., None], logits, 0.0),
        }
        for kind, actual in found.items():
            name = f"{variant}_{kind}"
            if name in outputs:
                yield Check(name, actual, outputs[name])


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


def _decode(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
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
            text_tokens=prompt[0],
            num_text=prompt[1],
            prompt_speech=prompt[2],
            num_prompt_speech=prompt[3],
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


def _decode_prompt(inputs: Tensors, *, with_prompt: bool) -> tuple[jax.Array, ...]:
    """Text, its length, prompt speech, its length; equally wide with and without the prompt."""
    prompt_text, text = inputs["prompt_text"], inputs["text"]
    speech = inputs["prompt_speech_token"]
    order = (prompt_text, text) if with_prompt else (text, prompt_text)
    num_text = text.shape[1] + with_prompt * prompt_text.shape[1]
    arrays = (np.concatenate(order, axis=1), [num_text], speech, [with_prompt * speech.shape[1]])
    return tuple(jnp.asarray(x, jnp.int32) for x in arrays)


def _replay(
    model: TextSpeechLM,
    params: Any,
    prompt: tuple[jax.Array, ...],
    tokens: np.ndarray,
    limits: tuple[int, int, int],
) -> np.ndarray:
    """The log-probabilities of every step, from the cached path with the given tokens.

    `limits`: rows wanted, tokens before which eos is forbidden, most tokens.
    """
    num_rows, min_tokens, max_tokens = limits
    layout = _lay_out(model.config, *prompt, with_targets=False)
    capacity = layout.ids.shape[1] + max_tokens + 1
    state = model.apply({"params": params}, 1, capacity, method="init_state")
    logits, state = _next(model, params, state, layout.ids, layout.kinds, layout.lengths)
    rows, one = [], np.ones((1,), np.int32)
    for index in range(num_rows):
        early = jnp.asarray([index < min_tokens])
        rows.append(log_probs(logits, early, model.config, SamplingConfig())[0])
        if index + 1 < num_rows:
            ids = np.asarray([[tokens[index]]], np.int32)
            logits, state = _next(model, params, state, ids, np.full_like(ids, SPEECH), one)
    return np.stack([np.asarray(row) for row in rows])


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
    tokens = jnp.asarray(outputs["norepeat_prompt_tokens"], jnp.int32)[None]
    speech = jnp.concatenate([speech, tokens], axis=1)
    # The file may leave out the last token, which decoding never fed.
    length = outputs["teacher_forced_hidden"].shape[1]
    num_speech = jnp.asarray([length - int(num_text[0]) - 2], jnp.int32)
    layout = _cut(_lay_out(model.config, text, num_text, speech, num_speech))
    for kind, actual in _forward(model, params, layout).items():
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


def _bistream(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    """The files do not say whether fills count among the last ids that the hook avoids."""
    del fixture
    runs = (_stream(model, params, inputs, fills_count=counted) for counted in (False, True))
    fits = lambda run: np.array_equal(run[0], outputs["tokens"])  # noqa: E731
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


def _dpo(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    changed = {k.removeprefix("ref."): v for k, v in inputs.items() if k.startswith("ref.")}
    reference = _model(fixture.weights, fixture.config, changed)[1]
    found: dict[str, Any] = {}
    logps = {}
    for name, tree in (("policy", params), ("ref", reference)):
        loss, official, intended = _pair_logps(model, tree, inputs, fixture.config)
        found |= {f"{name}_loss": loss.mean, f"{name}_acc": loss.accuracy}
        found |= {f"{name}_chosen_logps": official[0], f"{name}_rejected_logps": official[1]}
        found[f"{name}_intended_logps"] = jnp.concatenate(intended)
        logps[name] = official
    result = dpo(logps["policy"], logps["ref"], float(fixture.config.get("dpo_beta", 0.01)))
    found |= {"dpo_loss": result.loss, "chosen_reward": result.chosen_reward}
    found |= {"reject_reward": result.rejected_reward}
    found["total_loss"] = result.loss + found["policy_loss"]
    for name, actual in found.items():
        if name in outputs:
            yield Check(name, actual, outputs[name])


def _pair_logps(
    model: TextSpeechLM, params: Any, inputs: Tensors, config: Mapping[str, Any]
) -> tuple[Any, tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Loss of the chosen rows; mean log-probabilities over ignored and over valid positions."""
    text, num_text = _padded(inputs, "text_token")
    chosen, rejected = _padded(inputs, "speech_token"), _padded(inputs, "reject_speech_token")
    width = max(chosen[0].shape[1], rejected[0].shape[1])
    pad = lambda a: jnp.pad(a, ((0, 0), (0, width - a.shape[1])))  # noqa: E731
    twice = lambda a: jnp.concatenate([a, a])  # noqa: E731
    speech = jnp.concatenate([pad(chosen[0]), pad(rejected[0])])
    num_speech = jnp.concatenate([chosen[1], rejected[1]])
    layout = _cut(_lay_out(model.config, twice(text), twice(num_text), speech, num_speech))
    logits = _forward(model, params, layout)["logits"]
    half = text.shape[0]
    loss = cross_entropy(logits[:half], layout.targets[:half], float(config.get("lsm", 0.0)))
    ignored = sequence_logps(logits, layout.targets, over_ignored=True)
    valid = sequence_logps(logits, layout.targets)
    return loss, (ignored[:half], ignored[half:]), (valid[:half], valid[half:])


def _run_ras(fixture: Fixture) -> Iterator[Check]:
    """Candidate sets, the fallback, and what scripted picks lead to."""
    config, out = fixture.config, fixture.outputs
    scores = jnp.asarray(fixture.inputs["scores"])
    scores = jnp.where(scores <= MASKED / 2, -jnp.inf, scores)
    window = int(config["win_size"])
    recent = jnp.asarray(fixture.inputs["history"][:, -window:], jnp.int32)
    threshold = window * float(config["tau_r"])
    found = draws.nucleus(scores, float(config["top_p"]), int(config["top_k"]))
    width = out["nucleus_ids"].shape[1]
    pad = lambda a, value: jnp.pad(  # noqa: E731
        a, ((0, 0), (0, width - a.shape[1])), constant_values=value
    )
    yield Check("nucleus_ids", pad(found.ids, -1), out["nucleus_ids"])
    yield Check("nucleus_probs", pad(found.probs, 0.0), out["nucleus_probs"])
    last = jnp.sum(found.ids >= 0, axis=1) - 1
    results = []
    for pick in (jnp.zeros_like(last), last):
        first = jnp.take_along_axis(found.ids, pick[:, None], axis=1)[:, 0]
        repeated = draws.is_repeated(first, recent, threshold)
        fallback = draws.without(scores, first)
        if not results:
            yield Check("fallback_triggered_if_top", repeated, out["fallback_triggered_if_top"])
            probs = jnp.where(repeated[:, None], jax.nn.softmax(fallback, axis=-1), 0.0)
            yield Check("fallback_probs", probs, out["fallback_probs"])
        results.append(jnp.where(repeated, draws.greedy(fallback), first))
    yield Check("result_first_last", jnp.stack(results, axis=1), out["result_first_last"])


def _run_llm_full(fixture: Fixture) -> Iterator[Check]:
    """A few positions at full size."""
    model, params = _model(fixture.weights, fixture.config)
    text, num_text = _padded(fixture.inputs, "text")
    speech, num_speech = _padded(fixture.inputs, "speech")
    layout = _cut(_lay_out(model.config, text, num_text, speech, num_speech, with_targets=False))
    found = _forward(model, params, layout)
    for name, expected in fixture.outputs.items():
        last, actual = LAST.search(name), found[LAST.sub("", name)]
        yield Check(name, actual if last is None else actual[:, -int(last[1]) :], expected)


FIXTURES = {"lm": _run_lm, "ras_sampling": _run_ras, "llm_full": _run_llm_full}
