"""Speaker encoder CAM++: Kaldi filterbank energies to one 192-dimensional embedding.

Wang et al., "CAM++" (arXiv:2303.00332), with the sizes that CosyVoice 2 (arXiv:2412.10117,
section 2.4) conditions its flow on. The embedding is not normalised: the flow does that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.layers.campplus import (
    EPSILON,
    BatchNorm,
    ContextLayer,
    NormedConv,
    ResidualBlock,
    Statistics,
)
from cosyjax.ops import product


@dataclasses.dataclass(frozen=True)
class SpeakerEncoderConfig:
    """Sizes of CAM++; the defaults are the official ones."""

    num_mels: int = 80  # bins of the filterbank; a multiple of 8
    embed_dim: int = 192  # size of the speaker embedding
    head_dim: int = 32  # channels of the two-dimensional head
    head_blocks: tuple[int, ...] = (2, 2)  # residual blocks per stage; a stage halves the bins
    init_dim: int = 128  # channels before the first dense block
    growth: int = 32  # channels that a dense layer adds
    bottleneck: int = 128  # channels inside a dense layer
    num_layers: tuple[int, ...] = (12, 24, 16)  # dense layers per block
    dilations: tuple[int, ...] = (1, 2, 2)  # frames between taps, per block
    segment_frames: int = 100  # frames (20 ms) of a context segment
    folded: bool = False  # batch norms that follow a convolution are part of it
    compute: str = "float32"  # operand type of the products, see ops.product

    def __post_init__(self) -> None:
        halvings = 2 ** (len(self.head_blocks) + 1)
        if self.num_mels % halvings:
            raise InputError(f"num_mels={self.num_mels} must be a multiple of {halvings}")
        if len(self.num_layers) != len(self.dilations) or not self.num_layers:
            raise InputError(
                f"num_layers={self.num_layers} and dilations={self.dilations} "
                "need one entry per dense block"
            )
        sizes = (self.embed_dim, self.head_dim, self.init_dim, self.growth, self.segment_frames)
        if min(*sizes, *self.num_layers, *self.dilations) < 1 or self.bottleneck < 2:
            raise InputError(f"{self}: sizes must be positive and bottleneck at least 2")
        if self.compute not in product.COMPUTE_TYPES:
            allowed = ", ".join(product.COMPUTE_TYPES)
            raise InputError(f"compute={self.compute!r}; allowed: {allowed}")


class _Head(nn.Module):
    """Two-dimensional convolutions that reduce 80 bins to 10: [B, T, M] -> [B, T, M / 8 * D].

    Products stay in float32: XLA's direct convolution is faster on CPU than any form with
    bfloat16 operands that was measured.
    """

    config: SpeakerEncoderConfig

    @nn.compact
    def __call__(
        self, features: jax.Array, mask: jax.Array, statistics: Statistics | None
    ) -> jax.Array:
        config, mask = self.config, mask[:, None]  # [B, 1, T, 1]
        conv = lambda name, stride: NormedConv(
            config.head_dim, (3, 3), (stride, 1), config.folded, name=name
        )
        x = features.swapaxes(1, 2)[..., None]  # [B, M, T, 1]
        x = jnp.where(mask, nn.relu(conv("conv_in", 1)(x, mask, statistics)), 0.0)
        for stage, num_blocks in enumerate(config.head_blocks):
            for block in range(num_blocks):
                name, stride = f"stage_{stage}_block_{block}", 1 if block else 2
                module = ResidualBlock(config.head_dim, stride, config.folded, name=name)
                x = module(x, mask, statistics)
        x = jnp.where(mask, nn.relu(conv("conv_out", 2)(x, mask, statistics)), 0.0)
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], x.shape[2], -1)


class SpeakerEncoder(nn.Module):
    """CAM++; see the module docstring."""

    config: SpeakerEncoderConfig

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
        with_intermediates: bool = False,
    ) -> Any:
        """Embeds utterances.

        Args:
          features: [B, F, 80] log filterbank energies (`ops.fbank`), mean subtracted, 100 Hz.
          lengths: [B] valid frames; None means F.
          train: normalise by the statistics of this batch and return them too.
          with_intermediates: return the outputs of head, tdnn and dense blocks too.

        Returns:
          [B, 192] float32. With `train` or `with_intermediates`, a tuple of that and, in this
          order, the batch's statistics for `update_statistics` and {name: array}.
        """
        config = self.config
        shapes.check(features, "B F M", "features", M=config.num_mels)
        if lengths is None:
            lengths = jnp.full(features.shape[:1], features.shape[1], jnp.int32)
        statistics: Statistics | None = {} if train else None
        mask = _mask(features, lengths)
        x = jnp.where(mask, features.astype(jnp.float32), 0.0)
        x = _Head(config, name="head")(x, mask, statistics)
        kept = {"head": x}
        tdnn = NormedConv(
            config.init_dim, (5,), (2,), config.folded, compute=config.compute, name="tdnn"
        )
        num_frames = (x.shape[1] + 1) // 2
        mask = _mask(jnp.zeros((x.shape[0], num_frames)), (lengths + 1) // 2)
        x = jnp.where(mask, nn.relu(tdnn(x, mask, statistics)), 0.0)
        kept["tdnn"] = x
        # Whole segments from here on: their means and gates need no padding in each layer.
        whole = ((0, 0), (0, -num_frames % config.segment_frames), (0, 0))
        x, mask = jnp.pad(x, whole), jnp.pad(mask, whole)
        for index in range(len(config.num_layers)):
            x = self._dense_block(index, x, mask, statistics)
            kept[f"block_{index}"] = x[:, :num_frames]
            x = self._transit(index, x, mask, statistics)
        if not config.folded:
            x = BatchNorm(name="out_norm")(x, mask, statistics)
        pooled = pool_statistics(nn.relu(x), mask)
        embed = NormedConv(config.embed_dim, (1,), (1,), False, norm=False, name="embed")
        present = (lengths > 0)[:, None]
        embedding = embed(pooled[:, None], present[:, None], statistics)[:, 0]
        embedding = BatchNorm(affine=False, name="embed_norm")(embedding, present, statistics)
        extras = ((statistics,) if train else ()) + ((kept,) if with_intermediates else ())
        return (embedding, *extras) if extras else embedding

    def _dense_block(
        self, index: int, x: jax.Array, mask: jax.Array, statistics: Statistics | None
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D + num_layers * growth]."""
        config = self.config
        for layer in range(config.num_layers[index]):
            module = ContextLayer(
                config.growth,
                config.bottleneck,
                config.dilations[index],
                config.segment_frames,
                config.folded,
                config.compute,
                name=f"block_{index}_layer_{layer}",
            )
            x = jnp.concatenate([x, module(x, mask, statistics)], axis=-1)
        return x

    def _transit(
        self, index: int, x: jax.Array, mask: jax.Array, statistics: Statistics | None
    ) -> jax.Array:
        """Norm, ReLU and a product that halves the channels."""
        config = self.config
        x = nn.relu(BatchNorm(name=f"transit_{index}_norm")(x, mask, statistics))
        # The last product carries the bias of the norm that followed it.
        absorbs = config.folded and index == len(config.num_layers) - 1
        linear = NormedConv(
            x.shape[-1] // 2,
            (1,),
            (1,),
            folded=True,
            norm=absorbs,
            compute=config.compute,
            name=f"transit_{index}",
        )
        return linear(x, mask, statistics)


def _mask(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """[B, T, 1] bool: True for the first `lengths` frames of x [B, T, ...]."""
    return (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]


def pool_statistics(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean and unbiased standard deviation over valid frames: [B, T, D] -> [B, 2 * D].

    No epsilon enters the deviation. One frame alone has none: it gives zero.
    """
    count = jnp.sum(mask, axis=1)
    mean = jnp.sum(jnp.where(mask, x, 0.0), axis=1) / jnp.maximum(count, 1)
    centred = jnp.where(mask, x - mean[:, None], 0.0)
    variance = jnp.sum(jnp.square(centred), axis=1) / jnp.maximum(count - 1, 1)
    # sqrt has no gradient at zero; a channel that never fires sits exactly there.
    positive = variance > 0
    deviation = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
    return jnp.concatenate([mean, deviation], axis=-1)


def init_params(config: SpeakerEncoderConfig, key: jax.Array) -> dict[str, Any]:
    """Returns fresh parameters: a nested dictionary of float32 arrays.

    All kernels are cut from one draw: a draw for each of 270 would take minutes to compile. Their
    distribution is the modules' own, truncated normal with variance 1 / inputs.
    """
    features = jnp.zeros((1, 8, config.num_mels), jnp.float32)
    model = SpeakerEncoder(config)
    abstract = nn.meta.unbox(jax.eval_shape(model.init, key, features))["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    sizes = [leaf.size if leaf.ndim > 1 else 0 for _, leaf in leaves]
    draws = np.cumsum([0, *sizes])
    normal = jax.random.truncated_normal(key, -2.0, 2.0, (int(draws[-1]),)) / 0.87962566
    values = []
    for (path, leaf), start, size in zip(leaves, draws, sizes):
        if size:
            fan_in = leaf.size // leaf.shape[-1]
            values.append(normal[start : start + size].reshape(leaf.shape) / np.sqrt(fan_in))
        else:
            ones = path[-1].key in ("scale", "var")
            values.append(jnp.full(leaf.shape, float(ones), jnp.float32))
    return jax.tree.unflatten(tree, values)


def update_statistics(
    params: Mapping[str, Any], statistics: Statistics, momentum: float = 0.1
) -> dict[str, Any]:
    """Moves running means and variances towards those that a training step returned."""

    def moved(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        batch = statistics.get("/".join(path), {})
        new: dict[str, Any] = {}
        for name, value in tree.items():
            if isinstance(value, Mapping):
                new[name] = moved(value, (*path, name))
            elif name in batch:
                new[name] = (1.0 - momentum) * value + momentum * batch[name]
            else:
                new[name] = value
        return new

    return moved(params, ())


def fold_batch_norm(
    params: Mapping[str, Any], config: SpeakerEncoderConfig
) -> tuple[dict[str, Any], SpeakerEncoderConfig]:
    """Multiplies each norm that follows a convolution into it; nothing happens twice.

    Returns:
      params, config with `folded=True`, of a network with the same output to about 1e-6.
    """
    if config.folded:
        return dict(params), config
    tree = _fold_tree(params)
    last = f"transit_{len(config.num_layers) - 1}"
    tree[last] = _fold_pair({**tree[last], "norm": tree.pop("out_norm")})
    return tree, dataclasses.replace(config, folded=True)


def _fold_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    new = {k: _fold_tree(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    return _fold_pair(new) if "kernel" in new and "norm" in new else new


def _fold_pair(node: Mapping[str, Any]) -> dict[str, Any]:
    """{kernel, norm} -> {kernel, bias}, in float64 on the host so that rounding happens once."""
    norm = {name: np.asarray(value, np.float64) for name, value in node["norm"].items()}
    multiplier = norm["scale"] / np.sqrt(norm["var"] + EPSILON)
    kernel = np.asarray(node["kernel"], np.float64) * multiplier
    bias = norm["bias"] - norm["mean"] * multiplier
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
