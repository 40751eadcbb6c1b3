"""The real programs of serving, a copy on every chip: each chip speaks its own rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes, sharding
from cosyjax.aot.compilable import Compilable
from cosyjax.infer import decode, stream_step
from cosyjax.infer.acoustic_state import acoustic_models, bounded
from cosyjax.infer.bundle_config import BundleConfig
from cosyjax.infer.compute import ComputePlan
from cosyjax.infer.modules import MODULES
from cosyjax.infer.stages import TABLE, Stage, Stages
from cosyjax.models import speaker_encoder
from cosyjax.train import extract

KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
PLAN = ComputePlan("bfloat16", "bfloat16", "splash", "bfloat16", why="a TPU")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """What is served; rows are those of one chip."""

    rows: int = 8
    text_tokens: int = 64  # of the prompt and of what is said
    prompt_tokens: int = 250  # speech tokens of the prompt: 10 s
    max_tokens: int = 500  # speech tokens that may be said: 20 s
    left_s: float = 5.0  # how far a stream looks back
    chunk_tokens: int = 25  # of a stream's step
    clip_s: float = 10.0  # of a recording that is read


def serve_programs(
    config: BundleConfig, serve: ServeConfig, devices: Sequence[Any]
) -> dict[str, Compilable]:
    """Prefill, decode, stream and features of a bundle."""
    stages = abstract_stages(config)
    made = {
        "prefill": _prefill(config, stages, serve),
        "decode": _decode(config, stages, serve),
        "stream": _stream(config, stages, serve),
        "features": _features(stages, serve),
    }
    mesh = sharding.make_mesh(data=len(devices), devices=devices)
    return {name: _on_every_chip(name, part, serve, mesh) for name, part in made.items()}


def abstract_stages(config: BundleConfig) -> Stages:
    """The models as `infer.stages` prepares them, with shapes in the place of parameters."""
    made = {}
    for name, (module, make, prepare) in TABLE.items():
        sized = dataclasses.replace(getattr(config, name), compute=getattr(PLAN, name))
        if name == "lm":
            how = {"row_compute": PLAN.lm_rows, "attention": PLAN.lm_attention}
            sized = dataclasses.replace(sized, **how)
        drawn = jax.eval_shape(lambda key: MODULES[module].init_params(sized, key), KEY)
        made[name] = Stage(*_prepared(make, prepare, drawn, sized))
    return Stages(**made)


def _prepared(make: Any, prepare: Any, drawn: Any, config: Any) -> tuple[Any, Any]:
    """The model, and the shapes of its parameters once they are ready for inference."""
    after: list[Any] = []

    def ready(params: Any) -> Any:
        params, changed = prepare(params, config)
        after.append(changed)
        return params

    if prepare is speaker_encoder.fold_batch_norm:  # in float64 on the host: it wants numbers
        zeros = ready(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), drawn))
        return make(after[0]), jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), zeros)
    params = jax.eval_shape(ready, drawn)
    return make(after[0]), params


@dataclasses.dataclass(frozen=True)
class _Part:
    """A program of one chip."""

    function: Callable[..., Any]  # (params, given, state) -> anything
    params: Any
    given: Any
    state: Any  # whose memory is taken
    units: float
    audio_s: float
    flops: float | None


def _prefill(config: BundleConfig, stages: Stages, serve: ServeConfig) -> _Part:
    """Reads text and prompt and draws the first token."""
    model = stages.lm.model
    rows = serve.rows
    ints = lambda *size: jax.ShapeDtypeStruct((rows, *size), jnp.int32)
    prompt = (ints(serve.text_tokens), ints(), ints(serve.prompt_tokens), ints())
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))

    def run(params: Any, given: Any, state: Any) -> Any:
        del state
        prompt, limits, keys = given
        return decode.start(
            model,
            params,
            prompt,
            limits,
            keys,
            max_length=serve.max_tokens,
            sampling=config.sampling,
        )

    length = serve.text_tokens + serve.prompt_tokens + 2
    # The head reads the last position alone.
    head = 2.0 * model.config.embed_dim * model.config.speech_vocab_size
    per_token = model.config.flops_per_token((length + 1) // 2) - head
    return _Part(
        function=run,
        params=stages.lm.params,
        given=(prompt, (ints(), ints()), keys),
        state=(),
        units=float(rows * length),
        audio_s=0.0,
        flops=rows * (length * per_token + head),
    )


def _decode(config: BundleConfig, stages: Stages, serve: ServeConfig) -> _Part:
    """One second of tokens for each row; counted for one turn of the loop."""
    model = stages.lm.model
    prefill = _prefill(config, stages, serve)
    state = jax.eval_shape(prefill.function, prefill.params, prefill.given, ())

    def run(params: Any, given: Any, state: Any) -> Any:
        return decode.decode_chunk(model, params, state, given, sampling=config.sampling)

    context = serve.text_tokens + serve.prompt_tokens + 2 + serve.max_tokens
    return _Part(
        function=run,
        params=stages.lm.params,
        given=jax.ShapeDtypeStruct((), jnp.int32),
        state=state,
        units=float(serve.rows),
        audio_s=serve.rows / shapes.TOKEN_RATE_HZ,
        flops=float(serve.rows * model.config.flops_per_token(context)),
    )


def _stream(config: BundleConfig, stages: Stages, serve: ServeConfig) -> _Part:
    """`stream_step`: the LM draws what is missing, and one chunk of every row is spoken."""
    models, params = acoustic_models(stages)
    tokens = round(serve.left_s * shapes.TOKEN_RATE_HZ)
    models = bounded(models, -(-tokens // models.mask_chunk))
    sizes = stream_step.Sizes(
        batch=serve.rows,
        reach=models.flow.config.left_chunks * models.mask_chunk,
        max_tokens=serve.max_tokens,
        lm_length=serve.text_tokens + serve.prompt_tokens + serve.max_tokens + 2,
        window=serve.chunk_tokens + models.lookahead,
    )
    lm = stages.lm.model

    def speaker(params: Any) -> stream_step.Speaker:
        return stream_step.Speaker(Stage(lm, params[0]), models, params[1], config.sampling)

    def run(params: Any, given: Any, state: Any) -> Any:
        del given
        return stream_step.stream_step(speaker(params), state, serve.chunk_tokens)

    both = (stages.lm.params, params)
    state = jax.eval_shape(lambda p: stream_step.init_stream_state(speaker(p), sizes), both)
    audio_s = serve.rows * serve.chunk_tokens / shapes.TOKEN_RATE_HZ
    return _Part(
        function=run,
        params=both,
        given=(),
        state=state,
        units=float(serve.rows * serve.chunk_tokens),
        audio_s=audio_s,
        flops=None,
    )


def _features(stages: Stages, serve: ServeConfig) -> _Part:
    """Speech tokens, speaker embedding, mel and pitch of recordings at 24 kHz."""
    models = (stages.speech_tokenizer.model, stages.speaker_encoder.model)
    size = round(serve.clip_s * shapes.SAMPLE_RATE_HZ)
    counts = jax.ShapeDtypeStruct((serve.rows,), jnp.int32)

    def run(params: Any, given: Any, state: Any) -> Any:
        del state
        return extract.extract_program(models, params, *given, sample_rate_hz=shapes.SAMPLE_RATE_HZ)

    return _Part(
        function=run,
        params=(stages.speech_tokenizer.params, stages.speaker_encoder.params),
        given=(jax.ShapeDtypeStruct((serve.rows, size), jnp.float32), counts, counts),
        state=(),
        units=float(serve.rows),
        audio_s=serve.rows * serve.clip_s,
        flops=None,
    )


def _on_every_chip(name: str, part: _Part, serve: ServeConfig, mesh: Any) -> Compilable:
    """The program with a leading dimension of chips on everything but the parameters."""
    program, place = sharding.per_chip(part.function, mesh)
    whole = sharding.replicated(mesh)
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), part.params
    )
    step = jax.jit(program, donate_argnums=2)
    return Compilable(
        name=name,
        mesh=dict(mesh.shape),
        rows=serve.rows * mesh.size,
        units=part.units * mesh.size,
        audio_s=part.audio_s * mesh.size,
        flops=None if part.flops is None else part.flops * mesh.size,
        params=sum(x.size for x in jax.tree.leaves(part.params)),
        lower=lambda: step.lower(params, place(part.given), place(part.state)),
    )
