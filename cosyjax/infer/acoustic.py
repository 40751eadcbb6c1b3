"""Whole utterances of speech tokens to mel: encoder, guided Euler steps, one jitted call."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from cosyjax import shapes
from cosyjax.layers import stacking
from cosyjax.models.estimator import Conditions
from cosyjax.models.flow import FlowConfig, FlowMatching
from cosyjax.ops import masks


@functools.partial(jax.jit, static_argnames=("model", "num_steps"))
def tokens_to_mel(
    model: FlowMatching,
    params: Any,
    *,
    speech_tokens: jax.Array,
    num_tokens: jax.Array,
    prompt_mel: jax.Array,
    speaker_embedding: jax.Array,
    noise: jax.Array,
    num_steps: int | None = None,
    guidance_scale: jax.Array | float | None = None,
    streaming: jax.Array | bool = False,
    finalize: jax.Array | bool = True,
) -> jax.Array:
    """Speaks a padded batch; compiled once per shape.

    Args:
      model: the flow; `prepare_for_synthesis` makes it fast.
      params: its parameters.
      speech_tokens: int [B, T], the prompt's followed by the generated ones, padded.
      num_tokens: int [B], valid ones.
      prompt_mel: [B, 2T, M], zeros beyond the prompt.
      speaker_embedding: [B, 192] of any length.
      noise: [2T, M] or [B, 2T, M], standard normal.
      num_steps: Euler steps; by default those of the model's config.
      guidance_scale: by default that of the model's config.
      streaming: attention in chunks, as while streaming, rather than over everything.
      finalize: False holds the last tokens back as look-ahead, because more will follow.

    Returns:
      mel [B, 2T, M] float32, the prompt's frames included; zeros after the last spoken frame.

    Raises:
      InputError: a shape that does not fit.
    """
    _check_shapes(model, speech_tokens, num_tokens, prompt_mel, (speaker_embedding, noise))
    num_held = jnp.where(jnp.asarray(finalize), 0, model.config.encoder.lookahead)
    chunked, full = masks.kind_index("chunk"), masks.kind_index("full")
    kind = jnp.where(jnp.asarray(streaming), chunked, full)
    variables = {"params": params}
    mu: Any = model.apply(
        variables, speech_tokens, num_tokens, kind=kind, num_held=num_held, method="encode"
    )
    speaker: Any = model.apply(variables, speaker_embedding, method="speaker")
    mel: Any = model.apply(
        variables,
        noise,
        Conditions(mu, speaker, prompt_mel),
        shapes.FRAMES_PER_TOKEN * jnp.maximum(num_tokens - num_held, 0),
        kind=kind,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        method="solve",
    )
    return mel


def _check_shapes(
    model: FlowMatching,
    speech_tokens: jax.Array,
    num_tokens: jax.Array,
    prompt_mel: jax.Array,
    rest: tuple[jax.Array, jax.Array],
) -> None:
    speaker_embedding, noise = rest
    num_mels = model.config.estimator.num_mels
    shapes.check(speech_tokens, "B T", "speech_tokens")
    batch, length = speech_tokens.shape
    num_frames = shapes.FRAMES_PER_TOKEN * length
    shapes.check(num_tokens, "B", "num_tokens", B=batch)
    shapes.check(prompt_mel, "B F M", "prompt_mel", B=batch, F=num_frames, M=num_mels)
    shapes.check(speaker_embedding, "B E", "speaker_embedding", B=batch, E=model.config.speaker_dim)
    shapes.check(noise, "B F M" if noise.ndim == 3 else "F M", "noise", F=num_frames, M=num_mels)


def prepare_for_synthesis(params: Any, config: FlowConfig) -> tuple[Any, FlowConfig]:
    """Returns parameters and config in the form that speaks fastest.

    The estimator's query, key and value become one product (three narrow ones keep two cores at
    60 % of the rate of one wide one); with compute="bfloat16" kernels are rounded here, once.
    """
    tree = dict(params)
    if not config.estimator.fused:
        tree["estimator"] = stacking.fuse(tree["estimator"])
    if config.compute == "bfloat16":
        tree = stacking.round_kernels(tree, keep=("time", "speaker_proj"))  # float32: a few rows
    fused = dataclasses.replace(config.estimator, fused=True)
    return tree, dataclasses.replace(config, estimator=fused)
