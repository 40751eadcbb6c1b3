"""The flow's training loss, with every random draw in plain sight.

CosyVoice 2 (arXiv 2412.10117) section 2.4. `draw_flow` makes the draws of a batch, `flow_loss`
takes them, so that a recorded draw goes through the same code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cosyjax.models.estimator import Conditions
from cosyjax.models.flow import FlowConfig, FlowMatching
from cosyjax.ops import masks
from cosyjax.shapes import FRAMES_PER_TOKEN


class FlowBatch(NamedTuple):
    """Utterances, padded at their ends."""

    speech_tokens: jax.Array  # int [B, T]
    num_tokens: jax.Array  # int [B]
    mel: jax.Array  # [B, 2T, M] log-mel at 50 Hz
    speaker_embedding: jax.Array  # [B, 192]


class FlowDraws(NamedTuple):
    """Everything random about one loss."""

    t: jax.Array  # [B] in [0, 1], after the warp
    x0: jax.Array  # [B, 2T, M] normal noise
    num_prompt_frames: jax.Array  # int [B], frames of mel given as the prompt
    keep_conditions: jax.Array  # bool [B]
    mask_kind: jax.Array  # int [B], index in masks.MASK_KINDS


class FlowTerms(NamedTuple):
    """What the loss compares, and what the estimator was given."""

    velocity: jax.Array  # [B, F, M] estimated, zero in the padding
    target: jax.Array  # [B, F, M] x1 - (1 - sigma_min) x0
    x: jax.Array  # [B, F, M] noisy mel at time t
    conditions: Conditions  # after dropout
    valid: jax.Array  # bool [B, F]


def draw_flow(
    key: jax.Array, config: FlowConfig, num_tokens: jax.Array, num_frames: int
) -> FlowDraws:
    """Draws a batch's times, noise, prompts, dropped conditions and masks.

    Args:
      key: a jax key.
      config: its `training` part says how.
      num_tokens: int [B].
      num_frames: F, the padded length in mel frames.

    Returns:
      The draws. Noise depends on (key, row, frame) alone, not on the padded length.
    """
    how, batch = config.training, num_tokens.shape[0]
    keys = jax.random.split(key, 5)
    t = jax.random.uniform(keys[0], (batch,))
    if how.time_warp == "cosine":
        t = 1.0 - jnp.cos(0.5 * jnp.pi * t)
    keep = jax.random.uniform(keys[3], (batch,)) > how.condition_dropout
    x0 = _row_noise(keys[1], batch, num_frames, config.estimator.num_mels)
    prompt = _draw_prompt(keys[2], how.prompt, FRAMES_PER_TOKEN * num_tokens)
    return FlowDraws(t, x0, prompt, keep, _draw_kind(keys[4], how.masks, batch))


def max_prompt_frames(num_frames: jax.Array) -> jax.Array:
    """The longest prompt of rows of the given lengths: 30 %, rounded down. int [B] -> int [B]."""
    return 3 * num_frames // 10


def _row_noise(key: jax.Array, batch: int, num_frames: int, num_mels: int) -> jax.Array:
    one = lambda row, frame: jax.random.normal(
        jax.random.fold_in(jax.random.fold_in(key, row), frame), (num_mels,)
    )
    rows, frames = jnp.arange(batch), jnp.arange(num_frames)
    return jax.vmap(lambda row: jax.vmap(lambda frame: one(row, frame))(frames))(rows)


def _draw_prompt(key: jax.Array, how: str, num_frames: jax.Array) -> jax.Array:
    most = max_prompt_frames(num_frames)
    length_key, none_key = jax.random.split(key)
    drawn = jax.random.uniform(length_key, num_frames.shape)
    if how == "paper":  # the final 70 to 100 % of every row are masked
        return jnp.round(drawn * most).astype(jnp.int32)
    none = jax.random.uniform(none_key, num_frames.shape) < 0.5
    return jnp.where(none, 0, jnp.minimum((drawn * (most + 1)).astype(jnp.int32), most))


def _draw_kind(key: jax.Array, how: str, batch: int) -> jax.Array:
    if how == "paper":
        return jax.random.randint(key, (batch,), 0, len(masks.MASK_KINDS))
    streams = jax.random.uniform(key, ()) < 0.5  # one draw for the batch
    kind = jnp.where(streams, masks.kind_index("chunk"), masks.kind_index("full"))
    return jnp.broadcast_to(kind, (batch,))


def flow_terms(model: FlowMatching, params: dict, batch: FlowBatch, draws: FlowDraws) -> FlowTerms:
    """Builds the noisy mel and its conditions, and asks the model for the velocity."""
    config, variables = model.config, {"params": params}
    num_frames = FRAMES_PER_TOKEN * batch.num_tokens
    valid = masks.valid(num_frames, batch.mel.shape[1])
    x1 = jnp.where(valid[..., None], batch.mel, 0.0)
    t = draws.t[:, None, None]
    x = (1.0 - (1.0 - config.sigma_min) * t) * draws.x0 + t * x1
    prompt = masks.valid(draws.num_prompt_frames, x1.shape[1])
    mu: Any = model.apply(
        variables,
        batch.speech_tokens,
        batch.num_tokens,
        kind=draws.mask_kind,
        sanitize=config.training.padding == "zeros",
        method="encode",
    )
    speaker: Any = model.apply(variables, batch.speaker_embedding, method="speaker")
    given = Conditions(mu, speaker, jnp.where(prompt[..., None], x1, 0.0))
    keep = lambda y: jnp.where(draws.keep_conditions.reshape(-1, *(1,) * (y.ndim - 1)), y, 0.0)
    given = Conditions(*map(keep, given))
    velocity: Any = model.apply(
        variables, x, draws.t, given, num_frames, draws.mask_kind, method="velocity"
    )
    return FlowTerms(velocity, x1 - (1.0 - config.sigma_min) * draws.x0, x, given, valid)


def flow_loss(
    model: FlowMatching, params: dict, batch: FlowBatch, draws: FlowDraws
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean distance between estimated and true velocity over the valid frames.

    Args:
      model: its config says which distance.
      params: parameters, unboxed.
      batch: utterances; the padding may hold anything.
      draws: from `draw_flow`.

    Returns:
      loss, a float32 scalar, and metrics: "loss", "num_frames".
    """
    terms = flow_terms(model, params, batch, draws)
    distance = terms.velocity - terms.target
    distance = jnp.abs(distance) if model.config.training.loss == "l1" else jnp.square(distance)
    num_frames = jnp.sum(terms.valid)
    total = jnp.sum(jnp.where(terms.valid[..., None], distance, 0.0))
    loss = total / jnp.maximum(num_frames * distance.shape[-1], 1)
    return loss, {"loss": loss, "num_frames": num_frames}
