"""Golden files of the flow: encoder, estimator, solver, training loss, whole inference, noise."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.convert import mapping, names_flow
from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.infer.acoustic import tokens_to_mel
from cosyjax.layers.conformer import distance_table
from cosyjax.layers.estimator import time_sinusoid
from cosyjax.losses.flow import FlowBatch, FlowDraws, flow_loss, flow_terms, max_prompt_frames
from cosyjax.models.estimator import Conditions, Estimator
from cosyjax.models.flow import FlowConfig, FlowMatching, FlowTrainingConfig, init_params
from cosyjax.models.flow_solver import carry
from cosyjax.models.upsample_encoder import Masks, UpsampleEncoder
from cosyjax.ops import masks, noise, ode
from cosyjax.shapes import FRAMES_PER_TOKEN

Arrays = Mapping[str, np.ndarray]
PADDING = 3  # tokens of padding, so that inference runs as it does in a bucket


def _number(name: str, word: str, default: float) -> float:
    """The number after `word` in a tensor's name, "0p7" being 0.7."""
    found = re.search(rf"{word}(\d+(?:p\d+)?)", name)
    return float(found.group(1).replace("p", ".")) if found else default


def _kind(name: str) -> int:
    return masks.kind_index("chunk" if _number(name, "streaming", 0) else "full")


def _time_first(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.swapaxes(x, -1, -2))


def _channels_first(x: jax.Array) -> np.ndarray:
    return np.swapaxes(np.asarray(x), -1, -2)


def _import(rules: list, weights: Arrays, init: Any, source: str) -> dict:
    # float32 numbers on the device once; numpy leaves would be copied at every call
    tree = jax.eval_shape(init)
    sizes = {path: leaf.shape for path, leaf in mapping.flatten(tree).items()}
    return jax.tree.map(jnp.asarray, mapping.import_tensors(rules, weights, sizes, source))


def _unboxed(module: Any, *args: Any) -> Any:
    import flax.linen as nn

    return lambda: nn.meta.unbox(module.init(jax.random.key(0), *args))["params"]


def load_flow(fixture: Fixture, weights: Arrays, **settings: Any) -> tuple[FlowMatching, dict]:
    """Builds the flow that a fixture's weights and config describe."""
    c = fixture.config
    chunk = int(c.get("chunk", 25))
    frames = int(c.get("static_chunk_size", FRAMES_PER_TOKEN * chunk))
    assert frames == FRAMES_PER_TOKEN * chunk, "one chunk length serves encoder and estimator"
    config = names_flow.config_from_shapes(
        {key: value.shape for key, value in weights.items()},
        estimator_heads=int(c.get("heads", 8)),
        mask_chunk=chunk,
    )
    guidance = float(c.get("cfm", {}).get("inference_cfg_rate", config.guidance_scale))
    sigma = float(c.get("cfm", {}).get("sigma_min", config.sigma_min))
    values = {**vars(config), "guidance_scale": guidance, "sigma_min": sigma, **settings}
    config = FlowConfig(**values)
    init = lambda: init_params(config, jax.random.key(0))
    params = _import(names_flow.rules(config), weights, init, fixture.name)
    return FlowMatching(config), params


def run_encoder(fixture: Fixture) -> Iterator[Check]:
    """The encoder: a padded batch, one row alone, look-ahead frames given, and its stages."""
    prefix = "encoder." if any(k.startswith("encoder.") for k in fixture.weights) else ""
    sizes = {key: value.shape for key, value in fixture.weights.items()}
    config = names_flow.encoder_config(sizes, prefix)
    x, lengths = jnp.asarray(fixture.inputs["x"]), jnp.asarray(fixture.inputs["x_len"])
    chunk, module = int(fixture.config["chunk"]), UpsampleEncoder(config)
    rules = names_flow.encoder_rules(config, "", prefix)
    init = _unboxed(module, x, lengths, _masks(lengths, x.shape[1], 0, chunk))
    variables = {"params": _import(rules, fixture.weights, init, fixture.name)}
    encode = jax.jit(lambda *args: module.apply(variables, *args, sanitize=False))
    for name, expected in fixture.outputs.items():
        if name.startswith("stage_"):
            actual = _encoder_stage(name, module, variables, x[:1])
        elif name.startswith("mask_"):
            actual = masks.valid(FRAMES_PER_TOKEN * lengths, FRAMES_PER_TOKEN * x.shape[1])[:, None]
        elif name.startswith("batch_"):
            actual = encode(x, lengths, _masks(lengths, x.shape[1], _kind(name), chunk))
        else:
            given = [x[:1], jnp.asarray(fixture.inputs["context"])]
            row = x[:1] if "nocontext" in name else jnp.concatenate(given, axis=1)
            spoken = jnp.array([x.shape[1]])
            attention = _masks(spoken, row.shape[1], _kind(name), chunk)
            actual = encode(row, jnp.array([row.shape[1]]), attention)
            actual = actual[:, : FRAMES_PER_TOKEN * x.shape[1]]
        yield Check(name, np.asarray(actual).astype(expected.dtype), expected)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _masks(lengths: jax.Array, num_tokens: int, kind: int, chunk: int) -> Masks:
    limit = [masks.chunk_of_kind(kind, f * chunk) for f in (1, FRAMES_PER_TOKEN)]
    return Masks(
        masks.whole(lengths, num_tokens, limit[0]),
        masks.whole(FRAMES_PER_TOKEN * lengths, FRAMES_PER_TOKEN * num_tokens, limit[1]),
    )


def _encoder_stage(name: str, module: UpsampleEncoder, variables: Any, x: jax.Array) -> Any:
    if name == "stage_pos_emb":
        return distance_table(x.shape[1], x.shape[1], x.shape[2])[None]
    ahead = lambda m, x: m.lookahead(m.embed(x))
    part = (lambda m, x: m.embed(x)) if name == "stage_embed" else ahead
    return jax.jit(functools.partial(module.apply, method=part))(variables, x)


def run_decoder(fixture: Fixture) -> Iterator[Check]:
    """The velocity estimator under its masks, and the solver from given noise."""
    sizes = {key: value.shape for key, value in fixture.weights.items()}
    heads, prefix = int(fixture.config.get("heads", 8)), "estimator."
    config = names_flow.estimator_config(sizes, prefix, num_heads=heads)
    module = Estimator(config)
    x = jnp.zeros((1, 2, config.num_mels))
    given = Conditions(x, x[:, 0], x)
    init = _unboxed(module, x, jnp.zeros((1,)), given, jnp.ones((1, 2, 2), bool))
    rules = names_flow.estimator_rules(config, "", prefix)
    variables = {"params": _import(rules, fixture.weights, init, fixture.name)}
    for part, run in (("estimator", _estimator_part), ("cfm", _solver_part)):
        inputs, outputs = fixture.part(part)
        for name, expected in outputs.items():
            actual = run(name, module, variables, inputs, fixture.config)
            yield Check(f"{part}.{name}", np.asarray(actual), expected)


@functools.partial(jax.jit, static_argnames="module")
def _estimate(module: Estimator, variables: Any, *args: Any) -> Any:
    return module.apply(variables, *args)


@functools.partial(jax.jit, static_argnames="module")
def _carry(
    module: Estimator, variables: Any, start: jax.Array, seen: tuple, steps: Any, scale: float
) -> jax.Array:
    return carry(module, variables, start, None, seen=seen, steps=steps, scale=scale)[0]


def _conditions(inputs: Arrays) -> Conditions:
    cond = inputs.get("cond", np.zeros_like(inputs["mu"]))
    return Conditions(_time_first(inputs["mu"]), jnp.asarray(inputs["spks"]), _time_first(cond))


@functools.partial(jax.jit, static_argnums=1)
def _mask(lengths: jax.Array, num_frames: int, kind: int, chunk: int) -> jax.Array:
    return masks.whole(lengths, num_frames, masks.chunk_of_kind(kind, chunk))


def _estimator_part(
    name: str, module: Estimator, variables: Any, inputs: Arrays, config: Any
) -> Any:
    t = jnp.asarray(inputs["t"])
    if name == "time_sinusoid":
        return time_sinusoid(t, 4 * module.config.num_mels)
    if name == "time_emb":
        apply = functools.partial(module.apply, method=lambda m, t: m.time(t))
        return jax.jit(apply)(variables, t)
    x = _time_first(inputs["x"])
    whole = jnp.full((x.shape[0],), x.shape[1])
    lengths = jnp.asarray(inputs["len"]) if name.startswith("pad") else whole
    mask = _mask(lengths, x.shape[1], _kind(name), int(config["static_chunk_size"]))
    y = _estimate(module, variables, x, t, _conditions(inputs), mask)
    return _channels_first(jnp.where(masks.valid(lengths, x.shape[1])[..., None], y, 0.0))


def _solver_part(name: str, module: Estimator, variables: Any, inputs: Arrays, config: Any) -> Any:
    steps = ode.time_steps(ode.cosine_grid(int(_number(name, "steps", 10))))
    if name.startswith("t_values"):
        return steps.t
    given = _conditions(inputs)
    batch, num_frames = given.mu.shape[:2]
    whole = jnp.full((batch,), num_frames)
    mask = _mask(whole, num_frames, _kind(name), int(config["static_chunk_size"]))
    start = _time_first(inputs["noise"])[:, :num_frames] * _number(name, "temperature", 1.0)
    start = jnp.broadcast_to(start, given.mu.shape)
    scale = float(config["cfm"]["inference_cfg_rate"])
    seen, last = (given, mask), int(_number(name, "step", 0)) if "estimator_out" in name else None
    if last is None:
        return _channels_first(_carry(module, variables, start, seen, steps, scale))
    before = ode.TimeSteps(steps.t[: last - 1], steps.dt[: last - 1])
    x = _carry(module, variables, start, seen, before, scale) if last > 1 else start
    both = Conditions(*(jnp.concatenate([a, jnp.zeros_like(a)]) for a in given))
    t = jnp.full((2 * batch,), steps.t[last - 1])
    two = jnp.concatenate([mask, mask])
    return _channels_first(_estimate(module, variables, jnp.concatenate([x, x]), t, both, two))


def run_flow(fixture: Fixture) -> Iterator[Check]:
    """The training loss with recorded draws, and inference end to end."""
    training = FlowTrainingConfig(padding="official")
    model, params = load_flow(fixture, fixture.weights, training=training)
    yield from _training_part(model, params, fixture)
    inputs, outputs = fixture.part("inference")
    for name, expected in outputs.items():
        prompt = "noprompt" not in name
        yield Check(f"inference.{name}", _speak(name, model, params, inputs, prompt), expected)


def _training_part(model: FlowMatching, params: dict, fixture: Fixture) -> Iterator[Check]:
    inputs, outputs = fixture.part("train")
    asked = inputs["cond_draws"] >= 0.5
    prompt = np.zeros(asked.shape, np.int32)
    prompt[asked] = inputs["cond_index"]
    batch = FlowBatch(
        jnp.asarray(inputs["speech_token"], jnp.int32),
        jnp.asarray(inputs["speech_token_len"]),
        jnp.asarray(inputs["speech_feat"]),
        jnp.asarray(inputs["embedding"]),
    )
    rate = float(fixture.config["cfm"]["training_cfg_rate"])
    both = lambda *args: (flow_loss(model, *args)[0], flow_terms(model, *args))
    run = jax.jit(both)  # they share their products
    for name, expected in outputs.items():
        draws = FlowDraws(
            jnp.asarray(inputs["t"]).reshape(-1),
            _time_first(inputs["z"]),
            jnp.asarray(prompt),
            jnp.asarray(inputs["cfg_uniform"] > rate),
            jnp.full(asked.shape, _kind(name)),
        )
        actual: Any
        if name.startswith("randint_upper"):
            frames = FRAMES_PER_TOKEN * inputs["speech_token_len"][asked]
            actual = np.asarray(max_prompt_frames(jnp.asarray(frames))).astype(expected.dtype)
        elif name.startswith("loss"):
            actual = run(params, batch, draws)[0]
        else:
            terms = run(params, batch, draws)[1]
            mel, speaker, cond = terms.conditions
            table = {"pred": terms.velocity, "y": terms.x, "mu": mel, "cond": cond}
            word = name.split("_")[0]
            actual = speaker if word == "spks" else _channels_first(table[word])
        yield Check(f"train.{name}", actual, expected)


def _speak(
    name: str, model: FlowMatching, params: dict, inputs: Arrays, prompt: bool = True
) -> np.ndarray:
    """Mel [1, M, F] of the generated tokens, the prompt's frames cut off."""
    num_mels, tokens = model.config.estimator.num_mels, inputs["token"]
    prompt_tokens = inputs.get("prompt_token", tokens[:, :0])
    given = prompt_tokens if prompt else tokens[:, :0]
    both = np.concatenate([given, tokens], axis=1)
    # As wide without the prompt as with it: one program.
    padding = PADDING + prompt_tokens.shape[1] - given.shape[1]
    num_frames = FRAMES_PER_TOKEN * (both.shape[1] + padding)
    start = inputs["prompt_feat"].shape[1] if prompt else 0  # not by the prompt's tokens
    prompt_mel = np.zeros((1, num_frames, num_mels), np.float32)
    if prompt:
        prompt_mel[:, : inputs["prompt_feat"].shape[1]] = inputs["prompt_feat"]
    buffer = inputs["noise"][0].T if "noise" in inputs else noise.official_noise()
    start_noise = np.zeros((num_frames, num_mels), np.float32)
    start_noise[: len(buffer)] = buffer[:num_frames]
    finalize = bool(_number(name, "finalize", 1))
    held = 0 if finalize else model.config.encoder.lookahead
    mel = tokens_to_mel(
        model,
        params,
        speech_tokens=jnp.asarray(np.pad(both, ((0, 0), (0, padding)))),
        num_tokens=jnp.array([both.shape[1]]),
        prompt_mel=jnp.asarray(prompt_mel),
        speaker_embedding=jnp.asarray(inputs["embedding"]),
        noise=jnp.asarray(start_noise),
        num_steps=int(_number(name, "steps", 10)),
        streaming=bool(_kind(name)),
        finalize=finalize,
    )
    return _channels_first(mel[:, start : FRAMES_PER_TOKEN * (both.shape[1] - held)])


def run_flow_full(fixture: Fixture) -> Iterator[Check]:
    """The official sizes: encoder output, mu and inference from the official noise."""
    model, params = load_flow(fixture, fixture.weights)
    inputs = fixture.inputs
    both = jnp.asarray(np.concatenate([inputs["prompt_token"], inputs["token"]], axis=1))
    lengths = jnp.array([both.shape[1]])
    for name, expected in fixture.outputs.items():
        if name.startswith("mel"):
            yield Check(name, _speak(name, model, params, inputs), expected)
            continue
        kind = _kind(name)
        actual: Any
        if name.startswith("mu"):
            actual = model.apply({"params": params}, both, lengths, kind=kind, method="encode")
        else:
            chunk = model.config.mask_chunk
            attention = _masks(lengths, both.shape[1], kind, chunk)
            embedded = jnp.take(params["token_embed"]["embedding"], both, axis=0)
            encoder = UpsampleEncoder(model.config.encoder)
            variables = {"params": params["encoder"]}
            actual = encoder.apply(variables, embedded, lengths, attention)
            actual = actual[..., : int(_number(name, "first", actual.shape[-1]))]
        yield Check(name, actual, expected)


def run_noise(fixture: Fixture) -> Iterator[Check]:
    """The official noise buffer: columns of it, and the sums of its rows."""
    buffer = noise.official_noise().T
    for name, expected in fixture.outputs.items():
        numbers = [int(n) for n in re.findall(r"\d+", name)]
        double = buffer.astype(np.float64)
        if name.startswith("row_sumsq"):
            actual = np.square(double).sum(axis=1)
        elif name.startswith("row_sums"):
            actual = double.sum(axis=1)
        elif name.startswith("first"):
            actual = buffer[:, : numbers[0]]
        elif name.startswith("last"):
            actual = buffer[:, -numbers[0] :]
        else:
            actual = buffer[:, numbers[0] : numbers[1]]
        yield Check(name, actual, expected)


FIXTURES = {
    "flow_encoder": run_encoder,
    "flow_decoder": run_decoder,
    "flow": run_flow,
    "flow_full": run_flow_full,
    "rand_noise_seed0": run_noise,
}
