"""Official names of the speaker encoder, for trees with batch norms apart and folded in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cosyjax.convert.mapping import Rule, conv
from cosyjax.errors import InputError
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig

IGNORED_SUFFIX = ".num_batches_tracked"  # a counter that inference does not read


def rules(config: SpeakerEncoderConfig) -> list[Rule]:
    """The table of one configuration."""
    return [*_head(config), *_blocks(config), *_tail(config)]


def batch_norm(ours: str, theirs: str, affine: bool = True) -> list[Rule]:
    """Rules of a batch norm with its running statistics."""
    table = [Rule(f"{ours}.scale", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")]
    return table * affine + [
        Rule(f"{ours}.mean", f"{theirs}.running_mean"),
        Rule(f"{ours}.var", f"{theirs}.running_var"),
    ]


def _normed(
    ours: str, theirs: str, norm: str, config: SpeakerEncoderConfig, layout: str = "conv1d"
) -> list[Rule]:
    """A convolution followed by a norm: two modules, or one with a bias where folded."""
    table = conv(ours, theirs, bias=config.folded, layout=layout)
    return table if config.folded else table + batch_norm(f"{ours}.norm", norm)


def _head(config: SpeakerEncoderConfig) -> list[Rule]:
    table = _normed("head.conv_in", "head.conv1", "head.bn1", config, "conv2d")
    for stage, num_blocks in enumerate(config.head_blocks):
        for block in range(num_blocks):
            ours, theirs = f"head.stage_{stage}_block_{block}", f"head.layer{stage + 1}.{block}"
            for index in (0, 1):
                names = (f"{ours}.conv_{index}", f"{theirs}.conv{index + 1}")
                table += _normed(*names, f"{theirs}.bn{index + 1}", config, "conv2d")
            if block == 0:
                names = (f"{ours}.shortcut", f"{theirs}.shortcut.0")
                table += _normed(*names, f"{theirs}.shortcut.1", config, "conv2d")
    table += _normed("head.conv_out", "head.conv2", "head.bn2", config, "conv2d")
    norm = "xvector.tdnn.nonlinear.batchnorm"
    return table + _normed("tdnn", "xvector.tdnn.linear", norm, config)


def _blocks(config: SpeakerEncoderConfig) -> list[Rule]:
    table: list[Rule] = []
    for block, num_layers in enumerate(config.num_layers):
        for layer in range(num_layers):
            ours = f"block_{block}_layer_{layer}"
            theirs = f"xvector.block{block + 1}.tdnnd{layer + 1}"
            norms = [f"{theirs}.nonlinear{k}.batchnorm" for k in (1, 2)]
            table += batch_norm(f"{ours}.norm", norms[0])
            table += _normed(f"{ours}.bottleneck", f"{theirs}.linear1", norms[1], config)
            table += [Rule(f"{ours}.local", f"{theirs}.cam_layer.linear_local.weight", "conv1d")]
            table += conv(f"{ours}.gate_in", f"{theirs}.cam_layer.linear1")
            table += conv(f"{ours}.gate_out", f"{theirs}.cam_layer.linear2")
    return table


def _tail(config: SpeakerEncoderConfig) -> list[Rule]:
    table: list[Rule] = []
    for index in range(len(config.num_layers)):
        theirs = f"xvector.transit{index + 1}"
        table += batch_norm(f"transit_{index}_norm", f"{theirs}.nonlinear.batchnorm")
        bias = config.folded and index == len(config.num_layers) - 1
        table += conv(f"transit_{index}", f"{theirs}.linear", bias=bias)
    if not config.folded:
        table += batch_norm("out_norm", "xvector.out_nonlinear.batchnorm")
    table += conv("embed", "xvector.dense.linear", bias=False)
    return table + batch_norm("embed_norm", "xvector.dense.nonlinear.batchnorm", affine=False)


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> SpeakerEncoderConfig:
    """Reads the sizes off the official keys and shapes.

    Dilations and the segment length leave no trace in the shapes and are the official ones.

    Raises:
      InputError: a key that the sizes are read from is missing.
    """

    def size(key: str, axis: int) -> int:
        if key not in shapes or len(shapes[key]) <= axis:
            raise InputError(f"not a CAM++ checkpoint: {key} is missing or misshapen")
        return int(shapes[key][axis])

    first = "xvector.block1.tdnnd1"
    head_dim = size("head.conv1.weight", 0)
    head_blocks = _runs(shapes, r"head\.layer(\d+)\.(\d+)\.conv1\.weight", first=0)
    num_layers = _runs(shapes, r"xvector\.block(\d+)\.tdnnd(\d+)\.linear1\.weight", first=1)
    halvings = 2 ** (len(head_blocks) + 1)
    return SpeakerEncoderConfig(
        num_mels=size("xvector.tdnn.linear.weight", 1) // head_dim * halvings,
        embed_dim=size("xvector.dense.linear.weight", 0),
        head_dim=head_dim,
        head_blocks=head_blocks,
        init_dim=size("xvector.tdnn.linear.weight", 0),
        growth=size(f"{first}.cam_layer.linear_local.weight", 0),
        bottleneck=size(f"{first}.linear1.weight", 0),
        num_layers=num_layers,
        dilations=(1,) + (2,) * (len(num_layers) - 1),
        folded="head.bn1.weight" not in shapes,
    )


def _runs(shapes: Mapping[str, tuple[int, ...]], pattern: str, first: int) -> tuple[int, ...]:
    """How many numbered members each numbered group has, of keys such as block<g>.layer<m>."""
    counts: dict[int, int] = {}
    for match in filter(None, (re.fullmatch(pattern, key) for key in shapes)):
        group, member = int(match[1]), int(match[2])
        counts[group] = max(counts.get(group, 0), member + 1 - first)
    if not counts or sorted(counts) != list(range(1, len(counts) + 1)):
        raise InputError(f"not a CAM++ checkpoint: no consecutive keys like {pattern}")
    return tuple(counts[group] for group in sorted(counts))
