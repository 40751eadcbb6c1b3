"""Training the text-speech language model on packed sequences.

CosyVoice 2 (arXiv 2412.10117) section 2.3. From scratch, from a Qwen2 text checkpoint, or from a
bundle (`load`); with `lora.rank` the model is frozen and low-rank corrections train.
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
from cosyjax.layers import stacking
from cosyjax.layers.attention import Span
from cosyjax.losses.lm import TokenLoss, cross_entropy
from cosyjax.losses.lm_chunked import Head, chunked_cross_entropy
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from cosyjax.ops.interleave import IGNORED, SPEECH, Layout
from cosyjax.shapes import TOKEN_RATE_HZ
from cosyjax.train import init as starts
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn
from cosyjax.train.tasks import lm_samples
from cosyjax.train.tasks import lora as low_rank
from cosyjax.train.tasks.lora import LoRAConfig

GROUP, LORA = "text_speech_lm", "lora"
# Of the positions of a batch; read speech has 25 speech tokens to 3 to 5 text tokens a second.
SPEECH_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class LMTask:
    """Next-token prediction of speech.

    A batch holds `ids`, `kinds`, `targets`, `segment_ids` and `positions`, int32 [B, L] each: see
    `ops.interleave`; sequences of one row have different segment ids and count positions from 0.
    """

    model: TextSpeechLMConfig = TextSpeechLMConfig(scan_layers=True)
    smoothing: float = 0.0  # of the training targets; official: 0
    # Share of the input speech tokens that are replaced by random ones in training, so that the
    # model has to look at the text (word dropout, Bowman et al., arXiv 1511.06349). Official: none.
    speech_dropout: float = 0.0
    loss_chunk: int = 0  # positions whose logits a device holds at a time; 0: all
    lora: LoRAConfig = LoRAConfig()  # rank 0: everything trains
    speech: str = ""  # bundle whose flow and vocoder speak the samples; "" for none
    voice: str = ""  # of that bundle; "" for its first
    num_samples: int = 2  # held-out texts that are spoken

    def __post_init__(self) -> None:
        if self.model.fused:
            raise InputError("fused=True is a form for inference; training needs fused=False")
        if not 0.0 <= self.smoothing < 1.0:
            raise InputError(f"smoothing={self.smoothing} must lie in [0, 1)")
        if not 0.0 <= self.speech_dropout < 1.0:
            raise InputError(f"speech_dropout={self.speech_dropout} must lie in [0, 1)")
        if self.loss_chunk < 0:
            raise InputError(f"loss_chunk={self.loss_chunk} must be at least 0 positions")
        if self.num_samples < 0:
            raise InputError(f"num_samples={self.num_samples} must not be negative")

    def init(self, key: jax.Array) -> Params:
        """Draws the model, and with `lora` a second group, which alone trains."""
        base = text_speech_lm.init_boxed(self.model, key)
        if not self.lora.rank:
            return {GROUP: base}
        corrections = low_rank.init_boxed(base, self.lora, jax.random.fold_in(key, 1))
        return {GROUP: base, LORA: corrections}

    def load(self, path: Path | str) -> Params:
        """Reads parameters that take the place of drawn ones.

        Args:
          path: a bundle, or the folder of a Qwen2 text checkpoint.
        """
        tree = starts.read_lm(path, self.exported)
        tree = stacking.stack_layers(tree) if self.model.scan_layers else tree
        return {GROUP: tree}

    def turns(self) -> tuple[Turn, ...]:
        """One update of everything, or of the corrections alone."""
        return (Turn(LORA if self.lora.rank else GROUP, self.loss),)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Mean over the positions with a target; "weight" is how many there are."""
        if self.speech_dropout:
            batch = corrupt_speech(batch, key, self.speech_dropout, self.model.codebook_size)
        found = self._score(params, batch, self.smoothing)
        return found.mean, {"weight": found.num_targets, "accuracy": found.accuracy}

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Cross entropy in nats, without smoothing, accuracy, and the counts of `summarize`."""
        targets = jnp.asarray(batch["targets"])
        ends = jnp.where(targets >= self.model.codebook_size, targets, IGNORED)
        # The decoder runs once: what it gives does not depend on the targets.
        score = lambda wanted: self._score(params, {**batch, "targets": wanted}, 0.0)
        both = jax.vmap(score)(jnp.stack([targets, ends]))
        found, ended = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
        # The segments of a row count from 1.
        pairs = jnp.sum(jnp.max(batch["segment_ids"], axis=1), dtype=jnp.float32)
        speech = found.total - ended.total, found.num_targets - ended.num_targets
        metrics = {"loss": found.mean, "accuracy": found.accuracy, "weight": found.num_targets}
        return metrics | {"sums": jnp.stack([*speech, found.total, pairs])}

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nats per speech token, ends and fills apart, and per text-speech pair, with them."""
        speech_nats, speech_tokens, nats, pairs = np.asarray(counts["sums"], float)
        found = {}
        if speech_tokens:
            found["loss_per_speech_token"] = float(speech_nats / speech_tokens)
        if pairs:
            found["loss_per_pair"] = float(nats / pairs)
        return found

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Three forward passes (two where no kernel has a gradient), each position seeing half.

        Shapes do not tell text from speech, so the audio is an estimate; see SPEECH_SHARE.
        """
        rows, length = batch["ids"]
        tokens = float(rows * length)
        forward = tokens * self.model.flops_per_token((length + 1) // 2)
        passes = 2.0 if self.lora.rank else 3.0
        return Cost(passes * forward, tokens, tokens * SPEECH_SHARE / TOKEN_RATE_HZ)

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """Speaks the first held-out texts with the flow and vocoder of a bundle."""
        if not self.speech or not self.num_samples:
            return []
        configs, trees = self.modules(params)
        texts = lm_samples.first_texts(batch, self.num_samples)
        where = {"bundle": self.speech, "voice": self.voice}
        return lm_samples.speak_texts(configs[GROUP], trees[GROUP], texts, **where, key=key)

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model with the corrections merged in, layer by layer."""
        tree = params[GROUP] if not self.lora.rank else self._merged(params)
        return {GROUP: self.exported}, {GROUP: stacking.unstack_layers(tree)}

    @property
    def exported(self) -> TextSpeechLMConfig:
        """The model's sizes, without how it trains."""
        return dataclasses.replace(
            self.model,
            scan_layers=False,
            remat="none",
            attention="whole",
            join_qkv=False,
            mlp_result="float32",
            compute="float32",
            row_compute="float32",
        )

    def _merged(self, params: Params) -> dict[str, Any]:
        return low_rank.merge(params[GROUP], params[LORA], self.lora.scale)

    def _score(self, params: Params, batch: Batch, smoothing: float) -> TokenLoss:
        if self.lora.rank:
            tree = low_rank.attach(params[GROUP], params[LORA], self.lora.scale)
        else:
            tree = params[GROUP]
        return score(self.model, tree, batch, smoothing, self.loss_chunk)


def corrupt_speech(batch: Batch, key: jax.Array, share: float, codebook_size: int) -> Batch:
    """Replaces a random `share` of the input speech tokens by random ones; targets stay."""
    chosen, drawn = jax.random.split(key)
    ids = jnp.asarray(batch["ids"])
    hit = (batch["kinds"] == SPEECH) & jax.random.bernoulli(chosen, share, ids.shape)
    others = jax.random.randint(drawn, ids.shape, 0, codebook_size, ids.dtype)
    return {**batch, "ids": jnp.where(hit, others, ids)}


def score(
    model: TextSpeechLMConfig, tree: Any, batch: Batch, smoothing: float, chunk: int = 0
) -> TokenLoss:
    """Cross entropy of packed sequences under unboxed parameters; `chunk`: `losses.lm_chunked`."""
    lengths = jnp.full(batch["ids"].shape[:1], batch["ids"].shape[1], jnp.int32)
    layout = Layout(batch["ids"], batch["kinds"], batch["targets"], lengths)
    span = Span(segment_ids=batch["segment_ids"], positions=batch["positions"])
    apply = functools.partial(TextSpeechLM(model).apply, {"params": tree}, layout, span)
    if not chunk:
        logits: Any = apply()
        return cross_entropy(logits, batch["targets"], smoothing)
    head = Head(tree["head"]["kernel"], tree["head"]["bias"])
    hidden: Any = apply(method="hidden")
    settings: dict[str, Any] = {"smoothing": smoothing, "chunk": chunk, "compute": model.compute}
    return chunked_cross_entropy(hidden, head, batch["targets"], **settings)
