"""Golden files of the language model and of its sampler."""

from __future__ import annotations

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
LAST = re.compile(r"_last(\d+)$")

Tensors = Mapping[str, np.ndarray]


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
        layout = _cut(lay_out(model.config, *text, *speech, bistream=bistream))
        logits = jax.jit(model.apply)({"params": params}, layout)
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
    limits = [int(num_text * ratio) for ratio in _ratios(fixture)]
    for name in sorted(n for n in outputs if n.endswith("_tokens")):
        stem = name.removesuffix("_tokens")
        prompt = _decode_prompt(inputs, with_prompt="noprompt" not in stem)
        sampler = _argmax_without_repeats if stem.startswith("norepeat") else _argmax
        sampling = SamplingConfig(window=limits[1], runaway_window=0)
        result = generate(
            model,
            params,
            text_tokens=prompt[0],
            num_text=prompt[1],
            prompt_speech=prompt[2],
            num_prompt_speech=prompt[3],
            min_tokens=jnp.asarray(limits[:1]),
            max_tokens=jnp.asarray(limits[1:]),
            key=jax.random.key(0),
            sampling=sampling,
            max_length=limits[1],
            sampler=sampler,
        )
        tokens = np.asarray(result.tokens)[0, : int(result.num_tokens[0])]
        yield Check(name, tokens, outputs[name])
        if f"{stem}_logp" in outputs:
            rows = len(tokens) + int(result.finished[0])
            logps = _replay(model, params, prompt, tokens, rows, limits[0])
            if sampler is _argmax_without_repeats:  # which the files' hook does in place
                for index in range(rows):
                    logps[index, tokens[:index]] = -np.inf
            yield _masked_check(f"{stem}_logp", logps, outputs[f"{stem}_logp"])
    yield from _teacher_forced(model, params, inputs, outputs)


def _decode_prompt(inputs: Tensors, *, with_prompt: bool) -> tuple[jax.Array, ...]:
    text, speech = inputs["text"], inputs["prompt_speech_token"]
    if with_prompt:
        text = np.concatenate([inputs["prompt_text"], text], axis=1)
    else:
        speech = speech[:, :0]
    arrays = (text, [text.shape[1]], speech, [speech.shape[1]])
    return tuple(jnp.asarray(x, jnp.int32) for x in arrays)


def _replay(
    model: TextSpeechLM,
    params: Any,
    prompt: tuple[jax.Array, ...],
    tokens: np.ndarray,
    num_rows: int,
    min_tokens: int,
) -> np.ndarray:
    """The log-probabilities of every step, from the cached path with the given tokens."""
    variables = {"params": params}
    layout = lay_out(model.config, *prompt, with_targets=False)
    state = model.apply(variables, 1, layout.ids.shape[1] + num_rows, method="init_state")
    step = jax.jit(lambda *a: model.apply(variables, *a, method="predict_next"))
    logits, state = step(*layout[:2], layout.lengths, state)
    rows, one = [], jnp.ones((1,), jnp.int32)
    for index in range(num_rows):
        early = jnp.asarray([index < min_tokens])
        rows.append(log_probs(logits, early, model.config, SamplingConfig())[0])
        if index + 1 < num_rows:
            ids = jnp.asarray([[tokens[index]]], jnp.int32)
            logits, state = step(ids, jnp.full_like(ids, SPEECH), one, state)
    return np.stack([np.asarray(row) for row in rows])


def _masked_check(name: str, logps: np.ndarray, expected: np.ndarray) -> Check:
    """The files write -1e9 where an id is forbidden, which would hide every other difference."""
    forbidden = expected <= MASKED / 2
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
    layout = _cut(lay_out(model.config, text, num_text, speech, num_speech))
    found = {"hidden": "hidden", "logits": "__call__"}
    for kind, method in found.items():
        name = f"teacher_forced_{kind}"
        if name in outputs:
            yield Check(name, model.apply({"params": params}, layout, method=method), outputs[name])


class _BistreamHook:
    """The sampler of the files: argmax over recent novelty, an end after so many free calls."""

    def __init__(self, config: TextSpeechLMConfig, end_after: int) -> None:
        self.config, self.end_after = config, end_after
        self.rows: list[np.ndarray] = []
        self.free_calls = 0

    def __call__(self, logps: jax.Array, recent: jax.Array, keys: jax.Array) -> jax.Array:
        del keys
        row, size = np.array(logps[0]), self.config.codebook_size
        self.rows.append(row.copy())
        text_has_ended = np.isfinite(row[self.config.eos])
        speech = [int(token) for token in np.asarray(recent[0]) if 0 <= token < size]
        row[speech[-12:]] = -np.inf
        row[size + 1] = -np.inf
        if text_has_ended:
            self.free_calls += 1
            row[size:] = -np.inf
            if self.free_calls > self.end_after:
                return jnp.asarray([self.config.eos])
        return jnp.asarray([np.argmax(row)])


def _bistream(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    del fixture
    hook = _BistreamHook(model.config, int(inputs["forced_eos_after"]))
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
    yield Check("tokens", np.asarray(list(tokens)), outputs["tokens"])
    yield _masked_check("sampler_logp", np.stack(hook.rows), outputs["sampler_logp"])


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
    layout = _cut(lay_out(model.config, twice(text), twice(num_text), speech, num_speech))
    logits = jax.jit(model.apply)({"params": params}, layout)
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
    layout = lay_out(model.config, text, num_text, speech, num_speech, with_targets=False)
    methods = {"hidden": "hidden", "logits": "__call__"}
    for name, expected in fixture.outputs.items():
        kind = LAST.sub("", name)
        actual = jax.jit(lambda p, m=methods[kind]: model.apply({"params": p}, layout, method=m))(
            params
        )
        found = LAST.search(name)
        yield Check(name, actual if found is None else actual[:, -int(found[1]) :], expected)


FIXTURES = {"lm": _run_lm, "ras_sampling": _run_ras, "llm_full": _run_llm_full}
