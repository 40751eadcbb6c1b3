"""Layers of the CAM++ speaker encoder: batch norm, residual blocks, context-aware dense layers.

Wang et al., "CAM++" (arXiv:2303.00332), as used by CosyVoice 2. Every layer takes a mask of valid
frames, so that padding is inert. A normaliser whose statistics were folded into the convolution
before it is absent (`folded`), and that convolution carries a bias.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.layers.basic import boxed
from cosyjax.ops import conv2d, product

EPSILON = 1e-5
# {path of a BatchNorm: {"mean", "var"}}, filled while a training step runs through the layers.
Statistics = dict[str, dict[str, jax.Array]]


class BatchNorm(nn.Module):
    """Normalises channels by running statistics, or by those of the batch.

    `mean` and `var` are parameters like any other; an optimizer must leave them alone and
    `speaker_encoder.update_statistics` moves them.
    """

    affine: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, statistics: Statistics | None = None
    ) -> jax.Array:
        """Normalises the last axis.

        Args:
          x: [..., D].
          mask: bool, broadcasts against x[..., :1]; True counts in the batch's statistics.
          statistics: None to use the running ones; a dictionary to use the batch's and to note
            them there under this module's path.

        Returns:
          [..., D] float32.
        """
        size = (x.shape[-1],)
        mean = self.param("mean", boxed(nn.initializers.zeros, (None,)), size, jnp.float32)
        var = self.param("var", boxed(nn.initializers.ones, (None,)), size, jnp.float32)
        if statistics is not None:
            mean, var, unbiased = _moments(x, mask)
            statistics["/".join(self.path)] = {"mean": mean, "var": unbiased}
        multiplier = jax.lax.rsqrt(var + EPSILON)
        offset = -mean * multiplier
        if self.affine:
            scale = self.param("scale", boxed(nn.initializers.ones, (None,)), size, jnp.float32)
            bias = self.param("bias", boxed(nn.initializers.zeros, (None,)), size, jnp.float32)
            multiplier, offset = multiplier * scale, offset * scale + bias
        return x * multiplier + offset


def _moments(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased and unbiased variance [D] over the valid positions of x [..., D]."""
    axes = tuple(range(x.ndim - 1))
    valid = jnp.broadcast_to(mask, (*x.shape[:-1], 1))
    count = jnp.maximum(jnp.sum(valid), 2)
    mean = jnp.sum(jnp.where(valid, x, 0.0), axis=axes) / count
    total = jnp.sum(jnp.where(valid, jnp.square(x - mean), 0.0), axis=axes)
    return mean, total / count, total / (count - 1)


class NormedConv(nn.Module):
    """A convolution over time or over (mel, time), then batch norm; one biased one where folded.

    Args of the module:
      width: (time,) or (mel, time) taps, centred: padding keeps the length, before the stride.
      stride: one per axis.
      norm: whether a norm belongs to it at all.
    """

    features: int
    width: tuple[int, ...]
    stride: tuple[int, ...]
    folded: bool
    norm: bool = True
    compute: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, statistics: Statistics | None = None
    ) -> jax.Array:
        """[B, T, D] or [B, M, T, D] -> the same with `features` channels; mask as in BatchNorm."""
        shape = (*self.width, x.shape[-1], self.features)
        init = boxed(nn.initializers.lecun_normal(), (None,) * len(shape))
        kernel = self.param("kernel", init, shape, jnp.float32)
        half = tuple(taps // 2 for taps in self.width)
        if len(self.width) == 2:
            (down, along), (mel_pad, time_pad) = self.stride, half
            y = conv2d.conv2d(x, kernel, stride=(down, along), padding=(mel_pad, time_pad))
        elif self.width == (1,):
            y = product.dense(x, kernel[0], compute=self.compute)
        else:
            pads = (half[0], half[0])
            y = product.conv1d(x, kernel, stride=self.stride[0], padding=pads, compute=self.compute)
        if self.norm and not self.folded:
            return BatchNorm(name="norm")(y, mask, statistics)
        if self.norm:
            zeros = boxed(nn.initializers.zeros, (None,))
            y = y + self.param("bias", zeros, (self.features,), jnp.float32)
        return y


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions over (mel, time) with a shortcut; `stride` is on the mel axis only."""

    features: int
    stride: int
    folded: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, statistics: Statistics | None = None
    ) -> jax.Array:
        """[B, M, T, D] -> [B, M / stride, T, features]; frames beyond the mask are zero."""

        def conv(name: str, taps: int, stride: int, x: jax.Array) -> jax.Array:
            module = NormedConv(self.features, (taps, taps), (stride, 1), self.folded, name=name)
            return module(x, mask, statistics)

        y = jnp.where(mask, nn.relu(conv("conv_0", 3, self.stride, x)), 0.0)
        y = conv("conv_1", 3, 1, y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv("shortcut", 1, self.stride, x)
        return jnp.where(mask, nn.relu(x + y), 0.0)


class ContextLayer(nn.Module):
    """Densely connected layer whose output is gated by the context of its 100-frame segment."""

    growth: int
    bottleneck: int
    dilation: int
    segment_frames: int
    folded: bool
    compute: str = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, statistics: Statistics | None = None
    ) -> jax.Array:
        """[B, T, D], mask [B, T, 1] -> the new channels [B, T, growth]; T in whole segments."""
        x = nn.relu(BatchNorm(name="norm")(x, mask, statistics))
        squeeze = NormedConv(
            self.bottleneck, (1,), (1,), self.folded, compute=self.compute, name="bottleneck"
        )
        x = jnp.where(mask, nn.relu(squeeze(x, mask, statistics)), 0.0)
        init = boxed(nn.initializers.lecun_normal(), (None, None, None))
        local = self.param("local", init, (3, self.bottleneck, self.growth), jnp.float32)
        y = centred_conv(x, local, self.dilation, self.compute)
        context = segment_context(x, mask, self.segment_frames)
        hidden = nn.relu(_Gate(self.bottleneck // 2, name="gate_in")(context))
        gate = nn.sigmoid(_Gate(self.growth, name="gate_out")(hidden))
        return _scale_segments(y, gate, self.segment_frames)


class _Gate(nn.Module):
    """A dense layer kept as a convolution kernel of one tap, in float32: it sees few rows."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = boxed(nn.initializers.lecun_normal(), (None, None, None))
        kernel = self.param("kernel", init, (1, x.shape[-1], self.features), jnp.float32)
        zeros = boxed(nn.initializers.zeros, (None,))
        bias = self.param("bias", zeros, (self.features,), jnp.float32)
        return product.dense(x, kernel[0]) + bias


def centred_conv(x: jax.Array, kernel: jax.Array, dilation: int, compute: str) -> jax.Array:
    """Three dilated taps around each frame: [B, T, D] -> [B, T, E].

    All taps are one product, and its narrow result is shifted rather than the wide input.
    """
    taps, inputs, features = kernel.shape
    wide = product.dense(
        x, kernel.transpose(1, 0, 2).reshape(inputs, taps * features), compute=compute
    )
    wide = jnp.pad(wide, ((0, 0), (dilation, dilation), (0, 0)))
    pieces = [
        wide[:, k * dilation : k * dilation + x.shape[1], k * features : (k + 1) * features]
        for k in range(taps)
    ]
    return sum(pieces[1:], pieces[0])


def segment_context(x: jax.Array, mask: jax.Array, segment_frames: int) -> jax.Array:
    """Mean of the utterance plus mean of each segment: [B, T, D] -> [B, T / segment_frames, D].

    The last segment of an utterance is averaged over the frames it really has.

    Args:
      x: [B, T, D], zero where `mask` is False; T is a multiple of `segment_frames`.
      mask: [B, T, 1] bool.
      segment_frames: length of a segment.
    """
    batch, _, features = x.shape
    sums = jnp.sum(x.reshape(batch, -1, segment_frames, features), axis=2)
    counts = jnp.sum(mask.reshape(batch, -1, segment_frames), axis=2)[..., None]
    total = jnp.sum(sums, axis=1, keepdims=True) / jnp.maximum(jnp.sum(counts, 1, keepdims=True), 1)
    return total + sums / jnp.maximum(counts, 1)


def _scale_segments(x: jax.Array, gate: jax.Array, segment_frames: int) -> jax.Array:
    """Multiplies each segment of x [B, T, D] by its row of gate [B, segments, D]."""
    pieces = x.reshape(x.shape[0], -1, segment_frames, x.shape[2])
    return (pieces * gate[:, :, None]).reshape(x.shape)
