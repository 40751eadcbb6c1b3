"""Training the speech tokenizer: recognise the text through a quantizer.

CosyVoice 2 (arXiv 2412.10117) section 2.2. The quantizer and its baselines are those of
`models.speech_tokenizer`; the second encoder and the text decoder are dropped after training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.losses import tokenizer as losses
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.speech_tokenizer import (
    SpeechTokenizer,
    SpeechTokenizerConfig,
    TokenizerOutput,
    init_boxed,
    num_tokens,
)
from cosyjax.ops import mel as mel_ops
from cosyjax.train.init import read_module
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

GROUP = "speech_tokenizer"
HOP_SAMPLES = mel_ops.WHISPER_128.hop_samples
SAMPLE_RATE_HZ = mel_ops.WHISPER_128.sample_rate_hz


@dataclasses.dataclass(frozen=True)
class TokenizerTask:
    """A speech tokenizer with its text decoder.

    A batch holds `wav` [B, N] at 16 kHz, `num_samples` [B], `text_tokens` [B, S] and `num_text`
    [B]; a row without samples is padding.
    """

    model: SpeechTokenizerConfig = SpeechTokenizerConfig(asr=ASRHeadConfig())
    ctc_weight: float = 1.0  # with model.asr.ctc
    commitment_weight: float = 0.25  # pull of the encoder towards the table of "vq"
    balance_weight: float = 0.0  # of `balance_loss`, with "fsq"; official: none
    dither: float = 0.0  # width of the uniform noise before rounding, in levels; official: none

    def __post_init__(self) -> None:
        if self.model.asr is None:
            raise InputError("the tokenizer learns from text: set model.asr")
        if min(self.ctc_weight, self.commitment_weight, self.balance_weight, self.dither) < 0:
            raise InputError(f"{self}: weights and dither must be at least 0")
        if self.balance_weight and (self.model.quantizer != "fsq" or self.model.num_code_dims < 2):
            raise InputError('balance_weight needs quantizer="fsq" and at least 2 num_code_dims')

    def init(self, key: jax.Array) -> Params:
        """Draws the tokenizer with its text decoder."""
        return {GROUP: init_boxed(self.model, key)}

    def load(self, path: str) -> Params:
        """The tokenizer of a bundle; its text decoder stays as drawn."""
        return {GROUP: read_module(path, GROUP, dataclasses.replace(self.model, asr=None))}

    def turns(self) -> tuple[Turn, ...]:
        """One update of everything."""
        return (Turn(GROUP, self.loss),)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Cross entropy of the text, and what the quantizer asks for."""
        output, mask = self._run(params, batch, key if self.dither else None)
        loss, metrics = self._asr_loss(output, batch)
        metrics["loss_asr"] = loss
        assert output.asr is not None
        if output.asr.frames is not None:
            metrics["loss_ctc"] = self._ctc_loss(output, mask, batch)
            loss = loss + self.ctc_weight * metrics["loss_ctc"]
        quantized = output.quantized
        if self.model.quantizer == "vq":
            metrics["loss_commitment"] = losses.commitment_loss(
                quantized.features, quantized.chosen, mask, self.commitment_weight
            )
            loss = loss + metrics["loss_commitment"]
        if self.balance_weight:
            metrics["loss_balance"] = losses.balance_loss(
                quantized.features, mask, self.model.num_levels
            )
            loss = loss + self.balance_weight * metrics["loss_balance"]
        if self.model.quantizer != "none":
            counts = losses.count_tokens(output.tokens, mask, self.model.codebook_size)
            metrics |= _codebook(losses.codebook_metrics(counts))
        return loss, metrics

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Cross entropy and accuracy; "code_counts" [V] go to `summarize`."""
        output, mask = self._run(params, batch, None)
        loss, metrics = self._asr_loss(output, batch)
        metrics["loss"] = loss
        if self.model.asr is not None and self.model.asr.ctc:
            metrics["loss_ctc"] = self._ctc_loss(output, mask, batch)
        if self.model.quantizer != "none":
            size = self.model.codebook_size
            metrics["code_counts"] = losses.count_tokens(output.tokens, mask, size)
        return metrics

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Use of the codebook over a whole evaluation.

        Returns:
          "codebook_used" and "code_perplexity" of `losses.tokenizer.codebook_metrics`, and
          "codebook_reachable": the use to be expected of as many tokens drawn evenly. A small
          held-out set cannot use more than that.
        """
        if "code_counts" not in counts:
            return {}
        found = np.asarray(counts["code_counts"])
        metrics = _codebook(losses.codebook_metrics(jnp.asarray(found)))
        missed = (1.0 - 1.0 / found.size) ** int(found.sum())
        values = {name: float(value) for name, value in metrics.items()}
        return values | {"codebook_reachable": 1.0 - missed}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Three times the products of a forward pass."""
        (rows, samples), text = batch["wav"], batch["text_tokens"][1] + 1
        return Cost(
            flops=3.0 * rows * _forward_flops(self.model, samples // HOP_SAMPLES, text),
            tokens=float(rows * (num_tokens(samples // HOP_SAMPLES) + text)),
            audio_s=rows * samples / SAMPLE_RATE_HZ,
        )

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """Nothing: tokens alone have no sound."""
        return []

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tokenizer without its text decoder."""
        if self.model.quantizer == "none":
            raise InputError('quantizer="none" makes no tokens: such a run cannot go into a bundle')
        tree = {name: value for name, value in params[GROUP].items() if name != "asr"}
        return {GROUP: dataclasses.replace(self.model, asr=None)}, {GROUP: tree}

    def _run(
        self, params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[TokenizerOutput, jax.Array]:
        """The model's output, and [B, T] True = a token of speech."""
        num_samples = batch["num_samples"]
        mel = mel_ops.log_mel_128(batch["wav"], num_samples)
        lengths = num_samples // HOP_SAMPLES
        noise = None
        if key is not None and self.model.quantizer == "fsq":
            size = (mel.shape[0], num_tokens(mel.shape[1]), self.model.num_code_dims)
            noise = self.dither * jax.random.uniform(key, size, minval=-0.5, maxval=0.5)
        args = ({"params": params[GROUP]}, mel, lengths, batch["text_tokens"], noise)
        output: Any = SpeechTokenizer(self.model).apply(*args)
        mask = jnp.arange(output.tokens.shape[1]) < output.num_tokens[:, None]
        return output, mask

    def _asr_loss(self, output: TokenizerOutput, batch: Batch) -> tuple[jax.Array, Metrics]:
        assert self.model.asr is not None and output.asr is not None
        end = self.model.asr.end_token
        return losses.asr_loss(output.asr.text, batch["text_tokens"], _num_text(batch), end)

    def _ctc_loss(self, output: TokenizerOutput, mask: jax.Array, batch: Batch) -> jax.Array:
        assert self.model.asr is not None and output.asr is not None
        assert output.asr.frames is not None
        blank = self.model.asr.start_token
        return losses.ctc_loss(
            output.asr.frames, mask, batch["text_tokens"], _num_text(batch), blank
        )[0]


def _num_text(batch: Batch) -> jax.Array:
    """[B] text tokens; a row without speech has not even an end to predict."""
    return jnp.where(batch["num_samples"] > 0, batch["num_text"], -1)


def _codebook(metrics: Metrics) -> Metrics:
    return {"codebook_used": metrics["used"], "code_perplexity": metrics["perplexity"]}


def _forward_flops(config: SpeechTokenizerConfig, num_frames: int, num_text: int) -> float:
    """Products of one row, two operations each; norms and softmax left out."""
    asr, tokens = config.asr, num_tokens(num_frames)
    assert asr is not None
    first = 3 * config.embed_dim * (config.num_mels + config.embed_dim * 0.5) * num_frames / 2
    middle = tokens * config.code_dim * (asr.embed_dim + config.embed_dim)
    if config.quantizer == "vq":
        middle += tokens * config.num_vectors * config.embed_dim
    block = (
        lambda c: tokens
        * c.embed_dim
        * (4 * c.embed_dim + 2 * c.mlp_dim + c.fsmn_width + 2 * tokens)
    )
    width = asr.embed_dim
    # Self- and cross-attention; keys and values of the latter are made of the speech.
    decoder = num_text * width * (6 * width + 2 * asr.mlp_dim + 2 * num_text + 2 * tokens)
    decoder += 2 * tokens * width * width
    layers = config.num_layers * block(config) + asr.num_encoder_layers * block(asr)
    text = asr.num_decoder_layers * decoder + num_text * width * asr.vocab_size
    return 2.0 * (first + middle + layers + text)
