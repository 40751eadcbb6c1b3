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
from cosyjax.convert.mapping import flatten
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.convert.parity.lm_decode import (
    MASKED,
    Tensors,
    bistream,
    cut,
    decode,
    forward,
    lay_out_fast,
)
from cosyjax.losses.dpo import dpo, sequence_logps
from cosyjax.losses.lm import cross_entropy
from cosyjax.models.text_speech_lm import TextSpeechLM, init_params
from cosyjax.ops import sampling as draws
from cosyjax.ops.interleave import choose_bistream

LAST = re.compile(r"_last(\d+)$")

cross_entropy_fast = jax.jit(cross_entropy, static_argnums=2)
sequence_logps_fast = jax.jit(sequence_logps, static_argnames="over_ignored")
dpo_fast = jax.jit(dpo, static_argnums=2)


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
        "decode": decode,
        "bistream": bistream,
        "dpo": _dpo,
    }
    for name, run in parts.items():
        inputs, outputs = fixture.part(name)
        if outputs:
            for check in run(fixture, model, params, inputs, outputs):
                yield Check(f"{name}.{check.tensor}", check.actual, check.expected)


def _padded(inputs: Tensors, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A token matrix and its lengths."""
    tokens = np.asarray(inputs[name], np.int32)
    lengths = inputs.get(f"{name}_len", np.full(tokens.shape[:1], tokens.shape[1]))
    return tokens, np.asarray(lengths, np.int32)


def _train(
    fixture: Fixture, model: TextSpeechLM, params: Any, inputs: Tensors, outputs: Tensors
) -> Iterator[Check]:
    text, speech = _padded(inputs, "text_token"), _padded(inputs, "speech_token")
    names = {name.split("_", 1)[0] for name in outputs}
    for variant in sorted(names):
        draw = np.asarray(inputs["random_draws"]) if variant != "uni" else np.ones(len(text[0]))
        blocks = choose_bistream(draw, text[1], speech[1], model.config.mix_ratio)
        layout = cut(lay_out_fast(model.config, *text, *speech, bistream=blocks))
        logits = forward(model, params, layout)["logits"]
        loss = cross_entropy_fast(logits, layout.targets, float(fixture.config.get("lsm", 0.0)))
        valid = np.arange(logits.shape[1]) < np.asarray(layout.lengths)[:, None]
        found = {
            "loss": loss.mean,
            "acc": loss.accuracy,
            "target": layout.targets,
            "input_len": layout.lengths,
            "logits": np.where(valid[..., None], logits, 0.0),
        }
        for kind, actual in found.items():
            name = f"{variant}_{kind}"
            if name in outputs:
                yield Check(name, actual, outputs[name])


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
        found[f"{name}_intended_logps"] = np.concatenate(intended)
        logps[name] = official
    result = dpo_fast(logps["policy"], logps["ref"], float(fixture.config.get("dpo_beta", 0.01)))
    found |= {"dpo_loss": result.loss, "chosen_reward": result.chosen_reward}
    found |= {"reject_reward": result.rejected_reward}
    found["total_loss"] = np.add(result.loss, found["policy_loss"])
    for name, actual in found.items():
        if name in outputs:
            yield Check(name, actual, outputs[name])


def _pair_logps(
    model: TextSpeechLM, params: Any, inputs: Tensors, config: Mapping[str, Any]
) -> tuple[Any, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Loss of the chosen rows; mean log-probabilities over ignored and over valid positions."""
    text, num_text = _padded(inputs, "text_token")
    chosen, rejected = _padded(inputs, "speech_token"), _padded(inputs, "reject_speech_token")
    width = max(chosen[0].shape[1], rejected[0].shape[1])
    pad = lambda a: np.pad(a, ((0, 0), (0, width - a.shape[1])))
    twice = lambda a: np.concatenate([a, a])
    speech = np.concatenate([pad(chosen[0]), pad(rejected[0])])
    num_speech = np.concatenate([chosen[1], rejected[1]])
    layout = cut(lay_out_fast(model.config, twice(text), twice(num_text), speech, num_speech))
    logits = np.asarray(forward(model, params, layout)["logits"])
    half = text.shape[0]
    smoothing = float(config.get("lsm", 0.0))
    loss = cross_entropy_fast(logits[:half], layout.targets[:half], smoothing)
    run = lambda **how: np.asarray(sequence_logps_fast(logits, layout.targets, **how))
    ignored, valid = run(over_ignored=True), run()
    return loss, (ignored[:half], ignored[half:]), (valid[:half], valid[half:])


def _run_ras(fixture: Fixture) -> Iterator[Check]:
    """Candidate sets, the fallback, and what scripted picks lead to."""
    config, out = fixture.config, fixture.outputs
    scores = np.asarray(fixture.inputs["scores"])
    scores = np.where(scores <= MASKED / 2, np.float32(-np.inf), scores)
    window = int(config["win_size"])
    recent = np.asarray(fixture.inputs["history"][:, -window:], np.int32)
    threshold = window * float(config["tau_r"])
    nucleus = jax.jit(draws.nucleus, static_argnums=(1, 2))
    found = jax.device_get(nucleus(scores, float(config["top_p"]), int(config["top_k"])))
    width = out["nucleus_ids"].shape[1]
    pad = lambda a, value: np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=value)
    yield Check("nucleus_ids", pad(found.ids, -1), out["nucleus_ids"])
    yield Check("nucleus_probs", pad(found.probs, 0.0), out["nucleus_probs"])
    last = np.sum(found.ids >= 0, axis=1) - 1
    results: list[np.ndarray] = []
    for pick in (np.zeros_like(last), last):
        first = np.take_along_axis(found.ids, pick[:, None], axis=1)[:, 0]
        repeated, fallback, instead = _redraw(scores, first, recent, threshold)
        if not results:
            yield Check("fallback_triggered_if_top", repeated, out["fallback_triggered_if_top"])
            probs = np.where(repeated[:, None], fallback, 0.0)
            yield Check("fallback_probs", probs, out["fallback_probs"])
        results.append(np.where(repeated, instead, first))
    yield Check("result_first_last", np.stack(results, axis=1), out["result_first_last"])


@functools.partial(jax.jit, static_argnums=3)
def _redraw(
    scores: jax.Array, first: jax.Array, recent: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Is `first` repeated, the probabilities of the draw without it, and the best of them."""
    rest = draws.without(scores, first)
    repeated = draws.is_repeated(first, recent, threshold)
    return repeated, jax.nn.softmax(rest, axis=-1), draws.greedy(rest)


def _run_llm_full(fixture: Fixture) -> Iterator[Check]:
    """A few positions at full size."""
    model, params = _model(fixture.weights, fixture.config)
    text, num_text = _padded(fixture.inputs, "text")
    speech, num_speech = _padded(fixture.inputs, "speech")
    layout = cut(lay_out_fast(model.config, text, num_text, speech, num_speech, with_targets=False))
    found = forward(model, params, layout)
    for name, expected in fixture.outputs.items():
        last, actual = LAST.search(name), found[LAST.sub("", name)]
        yield Check(name, actual if last is None else actual[:, -int(last[1]) :], expected)


FIXTURES = {"lm": _run_lm, "ras_sampling": _run_ras, "llm_full": _run_llm_full}
