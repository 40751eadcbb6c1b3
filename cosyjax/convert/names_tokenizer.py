"""Speech tokenizer: official names and sizes to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cosyjax.convert.mapping import Rule, conv, linear, norm
from cosyjax.errors import InputError
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig

HEAD_DIM = 64  # the official rotary table is made for this width
PROJECT = "quantizer._codebook.project_down"
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def rules(config: SpeechTokenizerConfig) -> list[Rule]:
    """The table for the released part (no text decoder)."""
    table = conv("conv1", "encoder.conv1") + conv("conv2", "encoder.conv2")
    for i in range(config.num_layers):
        ours, theirs = f"layers_{i}", f"encoder.blocks.{i}"
        for name in ("query", "key", "value", "out"):
            table += linear(f"{ours}.attention.{name}", f"{theirs}.attn.{name}", name != "key")
        table += conv(f"{ours}.attention.memory", f"{theirs}.attn.fsmn_block", bias=False)
        table += norm(f"{ours}.attention_norm", f"{theirs}.attn_ln")
        table += linear(f"{ours}.mlp_in", f"{theirs}.mlp.0")
        table += linear(f"{ours}.mlp_out", f"{theirs}.mlp.2")
        table += norm(f"{ours}.mlp_norm", f"{theirs}.mlp_ln")
    return table + linear("proj_down", PROJECT)


def config_from_shapes(shapes: Mapping[str, Sequence[int]]) -> SpeechTokenizerConfig:
    """Reads the sizes off the official tensors' shapes.

    Args:
      shapes: {official key: shape}.

    Raises:
      InputError: a tensor that tells a size is missing.
    """
    first = "encoder.blocks.0"
    needed = ("encoder.conv1.weight", f"{PROJECT}.weight", f"{first}.mlp.0.weight")
    missing = [key for key in (*needed, f"{first}.attn.fsmn_block.weight") if key not in shapes]
    if missing:
        raise InputError(f"not a speech tokenizer v2: {', '.join(missing)} missing")
    width, num_mels, _ = shapes["encoder.conv1.weight"]
    if width % HEAD_DIM:
        raise InputError(
            f"encoder.conv1.weight is {width} wide; a multiple of {HEAD_DIM} is needed"
        )
    blocks = {int(m.group(1)) for m in map(_BLOCK.match, shapes) if m}
    return SpeechTokenizerConfig(
        num_mels=int(num_mels),
        embed_dim=int(width),
        num_heads=int(width) // HEAD_DIM,
        num_layers=max(blocks) + 1,
        mlp_dim=int(shapes[f"{first}.mlp.0.weight"][0]),
        fsmn_width=int(shapes[f"{first}.attn.fsmn_block.weight"][2]),
        num_code_dims=int(shapes[f"{PROJECT}.weight"][0]),
    )
