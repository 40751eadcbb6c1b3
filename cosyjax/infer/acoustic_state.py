"""What the acoustic half of a stream remembers, how large that is, and how rows come and go.

The flow's memory is the large part: per solver step keys and values of every frame that attention
may still see. Exact mode (`left_chunks` of -1) sees everything, so the state has room for a given
number of tokens; bounded mode sees `left_chunks` chunks back, and its state never grows.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.infer.overlap import OverlapConfig
from cosyjax.infer.stages import Stages
from cosyjax.infer.vocode import StreamState, init_stream
from cosyjax.layers.chunk_cache import ChunkCache
from cosyjax.models.flow import FlowMatching, FlowState
from cosyjax.models.vocoder import Vocoder

PROMPT_SEED = 0  # of the noise under a prompt, which is encoded before any request has a key


class AcousticModels(NamedTuple):
    """The two models, which are static: a program is compiled for them."""

    flow: FlowMatching
    vocoder: Vocoder
    overlap: OverlapConfig = OverlapConfig()  # of a vocoder that is not causal

    @property
    def lookahead(self) -> int:
        """A: tokens that a step sees beyond those it speaks."""
        return self.flow.config.encoder.lookahead

    @property
    def mask_chunk(self) -> int:
        """M: a step speaks a multiple of this."""
        return self.flow.config.mask_chunk

    @property
    def tail(self) -> int:
        """Most tokens of a prompt that are left to the first chunks: the last of them peek."""
        return self.mask_chunk + self.lookahead


class AcousticState(struct.PyTreeNode):
    """What B streams remember between chunks, and whose voice each of them is. Fixed shapes."""

    flow: FlowState
    vocoder: StreamState
    keys: jax.Array  # [B] a key per row: of the vocoder's noise, and of the flow's
    speaker_embedding: jax.Array  # [B, E]
    prompt_mel: jax.Array  # [B, 2 * tail, M] the last frames of the prompt, aligned to its end
    num_prompt: jax.Array  # [B] int32 frames of the prompt, which the vocoder does not hear

    @property
    def position(self) -> jax.Array:
        """[B] int32 tokens that the flow has spoken, those of the prompt included."""
        return self.flow.encoder.position


def acoustic_models(
    stages: Stages, overlap: OverlapConfig = OverlapConfig()
) -> tuple[AcousticModels, Any]:
    """Returns the models and their parameters, as every function of this file takes them.

    Args:
      stages: of which flow and vocoder are taken.
      overlap: how a vocoder that is not causal streams; by default exactly.
    """
    models = AcousticModels(stages.flow.model, stages.vocoder.model, overlap)
    return models, (stages.flow.params, stages.vocoder.params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))  # at once: a stream begins with it
def init_acoustic(
    models: AcousticModels, batch: int, max_tokens: int, num_steps: int | None = None
) -> AcousticState:
    """Returns the state of `batch` rows before their start, without voice or prompt.

    Args:
      models: flow and vocoder.
      batch: rows.
      max_tokens: how far back attention reaches, see `reach`.
      num_steps: Euler steps of every later step; None for those of the flow's config.
    """
    flow = models.flow.config
    shape = _flow_shape(models.flow, batch, max_tokens, num_steps)
    num_mels, frames = flow.estimator.num_mels, shapes.FRAMES_PER_TOKEN * models.tail
    return AcousticState(
        flow=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape),
        vocoder=init_stream(models.vocoder, batch, models.overlap),
        keys=jnp.broadcast_to(jax.random.key(PROMPT_SEED), (batch,)),
        speaker_embedding=jnp.zeros((batch, flow.speaker_dim), jnp.float32),
        prompt_mel=jnp.zeros((batch, frames, num_mels), jnp.float32),
        num_prompt=jnp.zeros((batch,), jnp.int32),
    )


@functools.lru_cache(maxsize=64)
def _flow_shape(
    flow: FlowMatching, batch: int, max_tokens: int, num_steps: int | None
) -> FlowState:
    """Shapes of the flow's state, which before the start is all zeros; found out once.

    The module needs parameters to be set up, and tracing that takes 50 ms.
    """
    begin = lambda key: flow.init_with_output(
        key, batch, max_tokens, num_steps, method="init_state"
    )[0]
    shape: Any = jax.eval_shape(begin, jax.random.key(0))
    return shape


def bounded(models: AcousticModels, left_chunks: int) -> AcousticModels:
    """Models whose attention reaches `left_chunks` mask chunks back; -1 for everything.

    This changes the sound: a whole utterance under the same limit is what streams.
    """
    config = dataclasses.replace(models.flow.config, left_chunks=left_chunks)
    return models._replace(flow=FlowMatching(config))


def reach(models: AcousticModels, num_tokens: int) -> int:
    """Tokens that the state must have room for, to speak `num_tokens` with those of the prompt."""
    left = models.flow.config.left_chunks
    whole = -(-num_tokens // models.mask_chunk) * models.mask_chunk
    return whole if left < 0 else min(whole, left * models.mask_chunk)


def check_room(models: AcousticModels, max_tokens: int, num_tokens: int) -> None:
    """Makes sure that a stream is not longer than what its state remembers.

    Args:
      models: flow and vocoder.
      max_tokens: that the state was made for.
      num_tokens: of the prompt and of all that will be said, at most.

    Raises:
      InputError: in exact mode, where frames forgotten would be missed.
    """
    needed = reach(models, num_tokens)
    if needed > max_tokens:
        raise InputError(
            f"prompt and speech take up to {num_tokens} tokens; this stream remembers "
            f"{max_tokens}: make it for {needed}, or bound what it sees with left_context"
        )


def state_bytes(state: Any) -> int:
    """Bytes of the arrays of a state, or of what `jax.eval_shape` says of it."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def check_memory(
    models: AcousticModels, batch: int, max_tokens: int, limit_bytes: int, num_steps: int | None
) -> int:
    """Returns the bytes of the state that `init_acoustic` would make.

    Raises:
      InputError: they exceed `limit_bytes`.
    """
    make = lambda: init_acoustic(models, batch, max_tokens, num_steps)
    needed = state_bytes(jax.eval_shape(make))
    if needed > limit_bytes:
        raise InputError(
            f"{batch} streams that reach {max_tokens} tokens back need {needed / 1e6:.0f} MB; "
            f"{limit_bytes / 1e6:.0f} MB are allowed: speak fewer at once, or bound what they see "
            "with left_context"
        )
    return needed


def resize(state: AcousticState, max_tokens: int) -> AcousticState:
    """Returns the state with room for `max_tokens`; what does not fit is the oldest."""
    encoder, num_frames = state.flow.encoder, shapes.FRAMES_PER_TOKEN * max_tokens
    flow = FlowState(
        encoder=encoder.replace(
            layers=_fit(encoder.layers, max_tokens), up_layers=_fit(encoder.up_layers, num_frames)
        ),
        estimator=_fit(state.flow.estimator, num_frames),
        max_tokens=max_tokens,
    )
    return state.replace(flow=flow)


def _fit(tree: Any, num_frames: int) -> Any:
    """Lets every cache in `tree` hold `num_frames`; they are aligned to their right end."""

    def cut(x: jax.Array) -> jax.Array:
        room = num_frames - x.shape[-2]
        pad = [(0, 0)] * x.ndim
        pad[-2] = (max(room, 0), 0)
        return jnp.pad(x, pad)[..., max(-room, 0) :, :]

    is_cache = lambda node: isinstance(node, ChunkCache)
    fit = lambda x: x.replace(key=cut(x.key), value=cut(x.value)) if is_cache(x) else x
    return jax.tree.map(fit, tree, is_leaf=is_cache)


def put_row(state: AcousticState, row: jax.Array | int, one: AcousticState) -> AcousticState:
    """Writes a state of one row over row number `row`, whoever spoke there."""
    put = lambda old, new: old.at[row].set(new[0])

    def put_twice(old: jax.Array, new: jax.Array) -> jax.Array:
        batch = old.shape[1] // 2  # with conditions, and without
        return old.at[:, row].set(new[:, 0]).at[:, batch + row].set(new[:, 1])

    flow = state.flow.replace(
        encoder=jax.tree.map(put, state.flow.encoder, one.flow.encoder),
        estimator=jax.tree.map(put_twice, state.flow.estimator, one.flow.estimator),
    )
    kept = jax.tree.map(put, state.replace(flow=None), one.replace(flow=None))
    return kept.replace(flow=flow)
