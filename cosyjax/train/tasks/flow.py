"""Training the flow: tokens and a speaker to the velocity that carries noise to mel.

CosyVoice 2 (arXiv 2412.10117) section 2.4. How masks, prompts and times are drawn and what is
minimised stands in `FlowConfig.training`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.vocode import mel_to_wav
from cosyjax.losses.flow import FlowBatch, draw_flow, flow_loss
from cosyjax.models import flow
from cosyjax.models.estimator import Conditions, EstimatorConfig
from cosyjax.models.flow import FlowConfig, FlowMatching
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig
from cosyjax.models.vocoder import Vocoder, make_vocoder
from cosyjax.shapes import FRAMES_PER_TOKEN, TOKEN_RATE_HZ
from cosyjax.train import init as starts
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

GROUP = "flow"
HELD_OUT_SEED = 0  # of the draws of an evaluation, so that curves compare from step to step


@dataclasses.dataclass(frozen=True)
class FlowTask:
    """Conditional flow matching.

    A batch holds `speech_tokens` int32 [B, T], `num_tokens` int32 [B], `mel` [B, 2T, 80] and
    `speaker_embedding` [B, 192]; a row without tokens is padding.
    """

    model: FlowConfig = FlowConfig()
    vocoder: str = ""  # bundle whose vocoder speaks the samples; "" for none
    num_samples: int = 2  # rows of a held-out batch that are spoken

    def __post_init__(self) -> None:
        if self.model.estimator.fused:
            raise InputError("estimator.fused is a form for inference; training needs fused=False")
        if self.num_samples < 0:
            raise InputError(f"num_samples={self.num_samples} must not be negative")

    def init(self, key: jax.Array) -> Params:
        """Draws the model."""
        shapes = jax.eval_shape(lambda key: flow.init_boxed(self.model, key), key)
        return {GROUP: starts.draw_all(shapes, key)}

    def load(self, path: Path | str) -> Params:
        """Reads the flow of a bundle, in the place of drawn parameters."""
        return {GROUP: starts.read_module(path, GROUP, self.exported)}

    def turns(self) -> tuple[Turn, ...]:
        """One update of everything."""
        return (Turn(GROUP, self.loss),)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Mean over the valid frames and mel bins; "weight" is the number of frames."""
        num_frames = batch["mel"].shape[1]
        draws = draw_flow(key, self.model, batch["num_tokens"], num_frames)
        loss, metrics = flow_loss(FlowMatching(self.model), params[GROUP], _rows(batch), draws)
        return loss, {"weight": metrics["num_frames"].astype(jnp.float32)}

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """The loss with draws that depend on the batch alone: equal at every evaluation."""
        key = jax.random.key(HELD_OUT_SEED)
        # Batches differ in their draws, or few times t would stand for all.
        for mark in (jnp.sum(batch["speech_tokens"]), jnp.sum(batch["num_tokens"])):
            key = jax.random.fold_in(key, mark)
        loss, metrics = self.loss(params, batch, key)
        return metrics | {"loss": loss}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Three forward passes over all tokens, padding included."""
        rows, tokens = batch["speech_tokens"]
        flops = 3.0 * rows * flops_per_row(self.model, tokens)
        return Cost(flops, float(rows * tokens), rows * tokens / TOKEN_RATE_HZ)

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """Speaks the first rows from their tokens, without a prompt, through a bundle's vocoder."""
        if not self.vocoder or not self.num_samples:
            return []
        rows = {name: jnp.asarray(x)[: self.num_samples] for name, x in batch.items()}
        vocoder, weights = _load_vocoder(self.vocoder)
        keys = jax.random.split(key)
        mel = _speak(self.model, params[GROUP], rows, keys[0])
        num_frames = FRAMES_PER_TOKEN * rows["num_tokens"]
        wav = jax.jit(mel_to_wav, static_argnums=0)(vocoder, weights, mel, num_frames, keys[1])
        size = vocoder.config.samples_per_frame
        return [
            Sample(f"row{i}", np.asarray(wav[i, : int(n) * size]), vocoder.config.sample_rate_hz)
            for i, n in enumerate(num_frames)
            if n > 0
        ]

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """The flow as it is."""
        return {GROUP: self.exported}, {GROUP: params[GROUP]}

    @property
    def exported(self) -> FlowConfig:
        """The model's sizes, without how it computes."""
        training = dataclasses.replace(
            self.model.training, remat="none", attention="whole", scan_layers=False
        )
        return dataclasses.replace(self.model, compute="float32", training=training)


def _rows(batch: Batch) -> FlowBatch:
    return FlowBatch(*(batch[name] for name in FlowBatch._fields))


@functools.partial(jax.jit, static_argnums=0)
def _speak(config: FlowConfig, params: Any, batch: Batch, key: jax.Array) -> jax.Array:
    """Solves for the mel [B, F, M] of whole rows."""
    model, variables = FlowMatching(config), {"params": params}
    num_tokens = batch["num_tokens"]
    mu: Any = model.apply(variables, batch["speech_tokens"], num_tokens, method="encode")
    speaker: Any = model.apply(variables, batch["speaker_embedding"], method="speaker")
    given = Conditions(mu, speaker, jnp.zeros_like(mu))
    noise = jax.random.normal(key, mu.shape[1:])
    num_frames = FRAMES_PER_TOKEN * num_tokens
    mel: Any = model.apply(variables, noise, given, num_frames, method="solve")
    return mel


@functools.lru_cache(maxsize=1)
def _load_vocoder(path: str) -> tuple[Vocoder, Any]:
    bundle = load_bundle(path, modules=("vocoder",))
    return make_vocoder(bundle.config.vocoder), jax.tree.map(jnp.asarray, bundle.params["vocoder"])


def flops_per_row(config: FlowConfig, num_tokens: int) -> float:
    """Floating-point operations of a forward pass over one row; norms and softmax left out."""
    frames = FRAMES_PER_TOKEN * num_tokens
    return _encoder_flops(config.encoder, num_tokens) + _estimator_flops(config.estimator, frames)


def _encoder_flops(c: UpsampleEncoderConfig, tokens: int) -> float:
    frames, d = FRAMES_PER_TOKEN * tokens, c.embed_dim
    # Query, key, value, out, two of the feed-forward; distances; scores twice (by key and by
    # distance, of which there are twice as many) and the weighing of values.
    block = lambda t: t * d * (4 * d + 2 * c.mlp_dim) + 2 * t * d * d + 4 * t * t * d
    convs = tokens * d * d * (c.lookahead + 1 + c.lookahead_width) + frames * d * d * (
        c.upsample_width
    )
    embeds = (tokens + frames) * d * d
    layers = c.num_layers * block(tokens) + c.num_up_layers * block(frames)
    return 2.0 * (convs + embeds + layers)


def _estimator_flops(c: EstimatorConfig, frames: int) -> float:
    d, inner = c.embed_dim, c.num_heads * c.head_dim
    block = frames * d * (4 * inner + 2 * c.mlp_dim) + 2 * frames * frames * inner
    stage = lambda width: frames * d * (c.conv_width * (width + d) + width) + c.num_blocks * block
    stages = stage(4 * c.num_mels) + c.num_mid_stages * stage(d) + stage(2 * d)
    convs = 3 * frames * c.conv_width * d * d + frames * d * c.num_mels
    return 2.0 * (stages + convs)
