"""The vocoder's parameters under their official names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosyjax.convert.mapping import Rule, conv, linear
from cosyjax.errors import InputError
from cosyjax.models.hift import HiFTConfig

PREFIX = "generator."
SCALE = "parametrizations.weight.original0"
DIRECTION = "parametrizations.weight.original1"


def strip_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Removes the prefix that a generator saved inside its GAN carries."""
    return {key.replace(PREFIX, ""): value for key, value in tensors.items()}


def rules(config: HiFTConfig) -> list[Rule]:
    """Pairs our paths with the official keys, in the order of the official state dict.

    Raises:
      InputError: a causal vocoder.
    """
    if config.causal:
        raise InputError("a causal vocoder has no counterpart among the official models")
    table = linear("source_mix", "m_source.l_linear") + _normed("first", "conv_pre")
    stages = range(len(config.upsample_rates))
    for i in stages:
        table += _normed(f"upsamples_{i}", f"ups.{i}", "conv_transpose1d")
    for i in stages:
        table += conv(f"source_downs_{i}", f"source_downs.{i}")
    for i, dilations in enumerate(config.source_block_dilations):
        table += _block(f"source_blocks_{i}", f"source_resblocks.{i}", len(dilations))
    for i in stages:
        for j, dilations in enumerate(config.block_dilations):
            index = i * len(config.block_dilations) + j
            table += _block(f"blocks_{i}_{j}", f"resblocks.{index}", len(dilations))
    table += _normed("last", "conv_post")
    for i in range(config.f0_layers):
        table += _normed(f"f0_predictor.conv_{i}", f"f0_predictor.condnet.{2 * i}")
    return table + linear("f0_predictor.output", "f0_predictor.classifier")


def _normed(ours: str, theirs: str, layout: str = "conv1d") -> list[Rule]:
    return [
        Rule(f"{ours}.bias", f"{theirs}.bias"),
        Rule(f"{ours}.scale", f"{theirs}.{SCALE}", layout),
        Rule(f"{ours}.direction", f"{theirs}.{DIRECTION}", layout),
    ]


def _block(ours: str, theirs: str, num_dilations: int) -> list[Rule]:
    table = []
    names = (("dilated", "1"), ("plain", "2"))
    for kind, number in names:
        for i in range(num_dilations):
            table += _normed(f"{ours}.{kind}_{i}", f"{theirs}.convs{number}.{i}")
    for kind, number in names:
        for i in range(num_dilations):
            official = f"{theirs}.activations{number}.{i}.alpha"
            table.append(Rule(f"{ours}.{kind}_{i}_alpha", official))
    return table


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]], **known: Any) -> HiFTConfig:
    """Derives the sizes from official keys.

    Strides, dilations and the hop leave no trace in a checkpoint: strides are taken as half the
    width of their kernel, dilations as 1, 3, 5, ..., the hop as a quarter of the transform, unless
    `known` says otherwise.

    Args:
      shapes: {official key: shape}, without the `generator.` prefix.
      **known: fields of HiFTConfig that win over what the shapes say.

    Raises:
      InputError: the keys are not those of a vocoder.
    """
    try:
        return HiFTConfig(**(_sizes(shapes) | known))
    except KeyError as error:
        raise InputError(f"not a vocoder checkpoint: it has no key {error}") from error


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    stages = _count(shapes, "ups.{}.bias")
    num_blocks = _count(shapes, "resblocks.{}.convs1.0.bias") // max(stages, 1)
    blocks = [_block_sizes(shapes, f"resblocks.{i}") for i in range(num_blocks)]
    source_blocks = [_block_sizes(shapes, f"source_resblocks.{i}") for i in range(stages)]
    widths = tuple(shapes[f"ups.{i}.{DIRECTION}"][2] for i in range(stages))
    n_fft = shapes["conv_post.bias"][0] - 2
    layers = _count(shapes, "f0_predictor.condnet.{}.bias", step=2)
    return {
        "num_mels": shapes[f"conv_pre.{DIRECTION}"][1],
        "base_channels": shapes["conv_pre.bias"][0],
        "upsample_rates": tuple(width // 2 for width in widths),
        "upsample_widths": widths,
        "block_widths": tuple(width for width, _ in blocks),
        "block_dilations": tuple(dilations for _, dilations in blocks),
        "source_block_widths": tuple(width for width, _ in source_blocks),
        "source_block_dilations": tuple(dilations for _, dilations in source_blocks),
        "n_fft": n_fft,
        "hop": n_fft // 4,
        "f0_channels": shapes["f0_predictor.condnet.0.bias"][0],
        "f0_layers": layers,
        "num_harmonics": shapes["m_source.l_linear.weight"][1] - 1,
    }


def _count(shapes: Mapping[str, Any], pattern: str, step: int = 1) -> int:
    """How many numbered members there are; one that lacks a key is still there."""
    prefix = pattern.split("{}")[0]
    numbers = {key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)}
    return max((int(n) // step + 1 for n in numbers if n.isdigit()), default=0)


def _block_sizes(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, tuple[int, ...]]:
    num_dilations = _count(shapes, name + ".convs1.{}.bias")
    width = shapes[f"{name}.convs1.0.{DIRECTION}"][2]
    return width, tuple(2 * i + 1 for i in range(num_dilations))
