"""Training the speaker encoder: classify the speakers of short pieces of speech.

CAM++ (arXiv:2303.00332) has batch norms. A turn normalises by the statistics of its own batch and
hands them to `finish`, which moves the running ones; those serve evaluation and the bundle. They
are part of the encoder's tree, where their gradient is zero.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.modules import parameter_shapes
from cosyjax.layers.basic import boxed
from cosyjax.losses import speaker as losses
from cosyjax.models import speaker_encoder
from cosyjax.models.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from cosyjax.ops import fbank
from cosyjax.train.init import read_module
from cosyjax.train.task import Batch, Cost, Metrics, Params, Sample, Turn

GROUP = "speaker_encoder"
PREFIX = "statistics/"  # of a turn's metrics that hold the batch's means and variances


@dataclasses.dataclass(frozen=True)
class SpeakerTask:
    """CAM++ under a classifier of cosines.

    A batch holds `wav` [B, N] at 16 kHz and `speaker` [B] int32, below `num_speakers`. A row whose
    samples are all zero is padding.
    """

    model: SpeakerEncoderConfig = SpeakerEncoderConfig()
    num_speakers: int = 1000  # classes; as many as the train split has, or more
    margin: float = 0.2  # radians between speakers
    scale: float = 32.0  # of the cosines
    momentum: float = 0.1  # part of a batch's statistics in the running ones after it

    def __post_init__(self) -> None:
        if self.num_speakers < 1:
            raise InputError(f"num_speakers={self.num_speakers} must be at least 1")
        if self.model.folded or self.model.num_mels != fbank.KALDI_80.num_mels:
            raise InputError(
                f"model.folded={self.model.folded}, num_mels={self.model.num_mels}: training needs "
                f"unfolded norms and {fbank.KALDI_80.num_mels} bins"
            )
        if not 0.0 < self.momentum <= 1.0:
            raise InputError(f"momentum={self.momentum} must lie in (0, 1]")

    def init(self, key: jax.Array) -> Params:
        """Draws encoder and classifier."""
        keys, cfg = jax.random.split(key), self.model
        features = jnp.zeros((1, 8, cfg.num_mels), jnp.float32)
        named = jax.eval_shape(SpeakerEncoder(cfg).init, key, features)["params"]
        encoder = jax.tree.map(
            lambda box, value: box.replace_boxed(value),
            named,
            speaker_encoder.init_params(cfg, keys[0]),
            is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
        )
        draw = boxed(nn.initializers.normal(1.0), ("embed", None))
        prototypes = draw(keys[1], (cfg.embed_dim, self.num_speakers), jnp.float32)
        return {GROUP: {"encoder": encoder, "prototypes": prototypes}}

    def load(self, path: str) -> Params:
        """The encoder of a bundle; the classifier stays as drawn."""
        return {GROUP: {"encoder": read_module(path, GROUP, self.model)}}

    def turns(self) -> tuple[Turn, ...]:
        """One update of everything, then the running statistics."""
        return (Turn(GROUP, self.loss, self.finish),)

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Margin softmax; the metrics carry the batch's statistics for `finish`."""
        (embedding, statistics), rows = self._embed(params, batch, train=True)
        loss, metrics = self._margin_loss(params, embedding, batch, rows)
        flat = {
            f"{PREFIX}{path}/{name}": value
            for path, moments in statistics.items()
            for name, value in moments.items()
        }
        return loss, metrics | jax.lax.stop_gradient(flat)

    def finish(self, tree: Any, metrics: Metrics) -> Any:
        """Moves the running statistics of the encoder towards those in the metrics."""
        statistics: dict[str, dict[str, jax.Array]] = {}
        for key, value in metrics.items():
            if key.startswith(PREFIX):
                path, _, name = key.removeprefix(PREFIX).rpartition("/")
                statistics.setdefault(path, {})[name] = value
        encoder = speaker_encoder.update_statistics(tree["encoder"], statistics, self.momentum)
        return {**tree, "encoder": encoder}

    def evaluate(self, params: Params, batch: Batch, key: jax.Array) -> Metrics:
        """Loss and accuracy by the running statistics, and scores of pairs for `summarize`."""
        embedding, rows = self._embed(params, batch, train=False)
        loss, metrics = self._margin_loss(params, embedding, batch, rows)
        same, different = losses.count_scores(embedding, batch["speaker"], rows)
        return {"loss": loss, "same_scores": same, "different_scores": different, **metrics}

    def summarize(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns "equal_error_rate" over all pairs within a batch, if there are any."""
        if not {"same_scores", "different_scores"} <= set(counts):
            return {}
        rate = losses.equal_error_rate(counts["same_scores"], counts["different_scores"])
        return {} if np.isnan(rate) else {"equal_error_rate": rate}

    def cost(self, batch: Mapping[str, tuple[int, ...]]) -> Cost:
        """Three times the products of a forward pass; `tokens` are frames."""
        (rows, samples), cfg = batch["wav"], fbank.KALDI_80
        frames = max((samples - cfg.frame_samples) // cfg.hop_samples + 1, 0)
        return Cost(
            flops=3.0 * rows * _forward_flops(self.model, frames),
            tokens=float(rows * frames),
            audio_s=rows * samples / cfg.sample_rate_hz,
        )

    def samples(self, params: Params, batch: Batch, key: jax.Array) -> list[Sample]:
        """Nothing: an embedding has no sound."""
        return []

    def modules(self, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
        """The encoder without the classifier."""
        return {GROUP: self.model}, {GROUP: params[GROUP]["encoder"]}

    def _embed(self, params: Params, batch: Batch, *, train: bool) -> tuple[Any, jax.Array]:
        """What the encoder returns, and [B] True = a row."""
        wav = batch["wav"]
        rows = jnp.any(wav != 0.0, axis=1)
        num_samples = jnp.where(rows, wav.shape[1], 0)
        lengths = fbank.num_frames(num_samples)
        features = fbank.subtract_mean(fbank.fbank(wav, num_samples), lengths)
        apply = functools.partial(SpeakerEncoder(self.model).apply, train=train)
        return apply({"params": params[GROUP]["encoder"]}, features, lengths), rows

    def _margin_loss(
        self, params: Params, embedding: jax.Array, batch: Batch, rows: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        prototypes, speakers = params[GROUP]["prototypes"], batch["speaker"]
        options = {"margin": self.margin, "scale": self.scale}
        return losses.margin_loss(embedding, prototypes, speakers, rows, **options)


def _forward_flops(config: SpeakerEncoderConfig, num_frames: int) -> float:
    """Two operations per tap of a kernel and position of its output, of one row."""
    total, later = 0.0, num_frames / 2  # the head keeps the frames, the layer after it halves them
    for path, shape in parameter_shapes("speaker_encoder", config).items():
        parts = path.split(".")
        if len(shape) < 2:
            continue
        if parts[0] == "head":
            stages = len(config.head_blocks)
            stage = int(parts[1].split("_")[1]) if parts[1].startswith("stage") else -1
            halvings = {"conv_in": 0, "conv_out": stages + 1}.get(parts[1], stage + 1)
            positions = num_frames * config.num_mels / 2**halvings
        elif parts[0] == "embed":
            positions = 1.0
        elif any(part.startswith("gate") for part in parts):
            positions = later / config.segment_frames
        else:
            positions = later
        total += positions * float(np.prod(shape))
    return 2.0 * total
