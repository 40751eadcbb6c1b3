"""Training the speech tokenizer: recognise the text through a quantizer.

CosyVoice 2 (arXiv 2412.10117) section 2.2. The quantizer and its baselines are those of
`models.speech_tokenizer`; the second encoder and the text decoder are dropped after training.

With `probe`, a second group learns beside it to predict the mel from what the quantizer hands on.
It has an update of its own and no way back into the tokenizer: it measures quantizers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.layers.basic import boxed
from cosyjax.losses import tokenizer as losses
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.mel_probe import MelProbe, MelProbeConfig
from cosyjax.models.speech_tokenizer import (
    FRAMES_PER_TOKEN,
    SpeechTokenizer,
    SpeechTokenizerConfig,
    TokenizerOutput,
    init_boxed,
    num_tokens,
)
from cosyjax.ops import mel as mel_ops
from cosyjax.train.init import read_module
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

GROUP, PROBE = "speech_tokenizer", "probe"
AGES = "table_ages"  # [V] steps since a vector of "vq" was chosen, beside its table
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
    # Differs: the paper's table only learns. One that few features choose from collapses early.
    restart_after: int = 0  # steps without use until a vector of "vq" is put on a feature; 0: never
    probe: MelProbeConfig | None = None  # measures the sound that the codes keep; official: none

    def __post_init__(self) -> None:
        if self.model.asr is None:
            raise InputError("the tokenizer learns from text: set model.asr")
        if min(self.ctc_weight, self.commitment_weight, self.balance_weight, self.dither) < 0:
            raise InputError(f"{self}: weights and dither must be at least 0")
        if self.restart_after < 0 or self.restart_after and self.model.quantizer != "vq":
            raise InputError(f'restart_after={self.restart_after}: at least 0, and 0 without "vq"')
        if self.balance_weight and (self.model.quantizer != "fsq" or self.model.num_code_dims < 2):
            raise InputError('balance_weight needs quantizer="fsq" and at least 2 num_code_dims')

    def init(self, key: jax.Array) -> Params:
        """Draws the tokenizer with its text decoder, and what measures it."""
        params = {GROUP: init_boxed(self.model, key)}
        if self.restart_after:
            ages = boxed(jax.nn.initializers.zeros, (None,))
            params[GROUP][AGES] = ages(key, (self.model.num_vectors,), jnp.float32)
        if self.probe is None:
            return params
        codes = jnp.zeros((1, 1, self.model.code_dim), jnp.float32)
        own = jax.jit(self._probe.init)(jax.random.fold_in(key, 1), codes, codes[..., 0] == 0)
        return params | {PROBE: own["params"]}

    def load(self, path: str) -> Params:
        """The tokenizer of a bundle; its text decoder stays as drawn."""
        return {GROUP: read_module(path, GROUP, dataclasses.replace(self.model, asr=None))}

    def turns(self) -> tuple[Turn, ...]:
        """One update of everything; that of the probe first, on the tokenizer as it was."""
        own = Turn(GROUP, self.loss, self.finish if self.restart_after else None)
        return (own,) if self.probe is None else (Turn(PROBE, self.probe_loss), own)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Cross entropy of the text, and what the quantizer asks for."""
        output, mask, _ = self._run(params, batch, key if self.dither else None)
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
        if self.restart_after:
            drawn = losses.draw_entries(key, quantized.features, mask, self.model.num_vectors)
            metrics |= {"code_counts": counts, "restarts": jax.lax.stop_gradient(drawn)}
        return loss, metrics

    def finish(self, tree: Any, metrics: Metrics) -> Any:
        """Puts vectors that nobody chose for long on features of this batch."""
        age = jnp.where(metrics["code_counts"] > 0, 0.0, tree[AGES] + 1.0)
        stale = age >= self.restart_after
        table = jnp.where(stale[:, None], metrics["restarts"], tree["table"])
        return {**tree, "table": table, AGES: jnp.where(stale, 0.0, age)}

    def probe_loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """L1 distance of the log-mel that the codes predict, in dB a bin."""
        output, mask, mel = self._run(params, batch, None)
        total, frames = self._mel_error(params, output, mask, (mel, batch["num_samples"]))
        return total / jnp.maximum(frames, 1.0), {"num_frames": frames}

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Cross entropy and accuracy; counts and sums go to `summarize`."""
        output, mask, mel = self._run(params, batch, None)
        loss, metrics = self._asr_loss(output, batch)
        metrics["loss"] = loss
        if self.model.asr is not None and self.model.asr.ctc:
            metrics["loss_ctc"] = self._ctc_loss(output, mask, batch)
            metrics["ctc_edits"] = losses.ctc_edits(*self._ctc_args(output, mask, batch))
        if self.probe is not None:
            heard = mel, batch["num_samples"]
            metrics["mel_error"] = self._mel_error(params, output, mask, heard)
        if self.model.quantizer != "none":
            size = self.model.codebook_size
            metrics["code_counts"] = losses.count_tokens(output.tokens, mask, size)
        return metrics

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Errors, and use of the codebook, over a whole evaluation.

        Returns:
          With `model.asr.ctc` "ctc_error": edits a text token, see `losses.tokenizer.ctc_edits`.
          With `probe` "probe_error_db": see `losses.tokenizer.mel_error`.
          With a quantizer "codebook_used" and "code_perplexity" of
          `losses.tokenizer.codebook_metrics`, and "codebook_reachable": the use to be expected of
          as many tokens drawn evenly. A small held-out set cannot use more than that.
        """
        means = {"ctc_edits": "ctc_error", "mel_error": "probe_error_db"}
        values = {means[n]: float(x[0] / max(x[1], 1)) for n, x in counts.items() if n in means}
        if "code_counts" not in counts:
            return values
        found = np.asarray(counts["code_counts"])
        metrics = _codebook(losses.codebook_metrics(jnp.asarray(found)))
        missed = (1.0 - 1.0 / found.size) ** int(found.sum())
        values |= {name: float(value) for name, value in metrics.items()}
        return values | {"codebook_reachable": 1.0 - missed}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Three times the products of a forward pass; a probe is left out."""
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
        """The tokenizer without its text decoder and its probe."""
        if self.model.quantizer == "none":
            raise InputError('quantizer="none" makes no tokens: such a run cannot go into a bundle')
        dropped = ("asr", AGES)
        tree = {name: value for name, value in params[GROUP].items() if name not in dropped}
        return {GROUP: dataclasses.replace(self.model, asr=None)}, {GROUP: tree}

    def _run(
        self, params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[TokenizerOutput, jax.Array, jax.Array]:
        """The model's output, [B, T] True = a token of speech, and the log-mel it was made of."""
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
        return output, mask, mel

    @property
    def _probe(self) -> MelProbe:
        assert self.probe is not None
        return MelProbe(self.probe, self.model.num_mels, FRAMES_PER_TOKEN)

    def _mel_error(
        self,
        params: Params,
        output: TokenizerOutput,
        mask: jax.Array,
        heard: tuple[jax.Array, jax.Array],
    ) -> jax.Array:
        """`losses.mel_error` of what the probe makes of codes; `heard`: mel, samples of rows."""
        codes = jax.lax.stop_gradient(output.codes)
        predicted: Any = self._probe.apply({"params": params[PROBE]}, codes, mask)
        return losses.mel_error(predicted, heard[0], heard[1] // HOP_SAMPLES)

    def _asr_loss(self, output: TokenizerOutput, batch: Batch) -> tuple[jax.Array, Metrics]:
        assert self.model.asr is not None and output.asr is not None
        end = self.model.asr.end_token
        return losses.asr_loss(output.asr.text, batch["text_tokens"], _num_text(batch), end)

    def _ctc_loss(self, output: TokenizerOutput, mask: jax.Array, batch: Batch) -> jax.Array:
        return losses.ctc_loss(*self._ctc_args(output, mask, batch))[0]

    def _ctc_args(
        self, output: TokenizerOutput, mask: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, int]:
        assert self.model.asr is not None and output.asr is not None
        assert output.asr.frames is not None
        blank = self.model.asr.start_token
        return output.asr.frames, mask, batch["text_tokens"], _num_text(batch), blank


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
