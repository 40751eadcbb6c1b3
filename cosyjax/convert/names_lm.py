"""Official names and shapes of the text-speech language model (`llm.pt`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cosyjax.convert.mapping import Rule, export_tensors, import_tensors, linear, norm
from cosyjax.errors import InputError
from cosyjax.models.text_speech_lm import NUM_ENDS, TextSpeechLMConfig

TEXT_TABLE = "llm.model.model.embed_tokens.weight"
TIED_HEAD = "llm.model.lm_head.weight"  # Qwen2's own head: a copy of the text table, unused
_LAYER = "llm.model.model.layers.{}"


def rules(config: TextSpeechLMConfig) -> list[Rule]:
    """Returns the table, in the order of the official state dict (without the tied head)."""
    table = [
        Rule("special_embedding.embedding", "llm_embedding.weight"),
        Rule("text_embedding.embedding", TEXT_TABLE),
    ]
    for index in range(config.num_layers):
        table += _layer_rules(f"backbone.layers_{index}", _LAYER.format(index))
    table += norm("backbone.norm", "llm.model.model.norm", bias=False)
    table += linear("head", "llm_decoder")
    return table + [Rule("speech_embedding.embedding", "speech_embedding.weight")]


def _layer_rules(ours: str, theirs: str) -> list[Rule]:
    table: list[Rule] = []
    for name, official in (("query", "q"), ("key", "k"), ("value", "v")):
        table += linear(f"{ours}.attention.{name}", f"{theirs}.self_attn.{official}_proj")
    table += linear(f"{ours}.attention.out", f"{theirs}.self_attn.o_proj", bias=False)
    for name in ("gate", "up", "down"):
        table += linear(f"{ours}.mlp.{name}", f"{theirs}.mlp.{name}_proj", bias=False)
    table += norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", bias=False)
    return table + norm(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm", bias=False)


def config_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], hf_config: Mapping[str, Any] | None = None
) -> TextSpeechLMConfig:
    """Reads the sizes off a checkpoint.

    Args:
      shapes: {official key: shape}.
      hf_config: the `config.json` of the backbone's folder, or None. It alone tells how many
        heads share a width; without it heads are 64 wide, as in every Qwen2 of this size.

    Raises:
      InputError: a key that tells a size is absent, or the sizes contradict each other.
    """
    hf = dict(hf_config or {})
    first = _LAYER.format(0)
    text_rows, width = _shape(shapes, TEXT_TABLE)
    query, key = (_shape(shapes, f"{first}.self_attn.{n}_proj.weight")[0] for n in "qk")
    num_heads = hf.get("num_attention_heads")
    head_dim = hf.get("head_dim") or (query // num_heads if num_heads else 64)
    if query % head_dim or key % head_dim:
        raise InputError(f"heads of {head_dim} do not divide projections of {query} and {key}")
    layers = {k.split(".")[4] for k in shapes if k.startswith("llm.model.model.layers.")}
    return TextSpeechLMConfig(
        num_layers=len(layers),
        embed_dim=width,
        num_heads=query // head_dim,
        num_kv_heads=key // head_dim,
        head_dim=head_dim,
        mlp_dim=_shape(shapes, f"{first}.mlp.gate_proj.weight")[0],
        rope_theta=float(hf.get("rope_theta", TextSpeechLMConfig.rope_theta)),
        norm_epsilon=float(hf.get("rms_norm_eps", TextSpeechLMConfig.norm_epsilon)),
        text_vocab_size=text_rows,
        codebook_size=_shape(shapes, "speech_embedding.weight")[0] - NUM_ENDS,
        mix_ratio=tuple(hf.get("mix_ratio", TextSpeechLMConfig.mix_ratio)),
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise InputError(f"missing {key}: not a text-speech language model of CosyVoice 2")
    return tuple(shapes[key])


def import_lm(
    official: Mapping[str, np.ndarray],
    config: TextSpeechLMConfig,
    shapes: Mapping[str, tuple[int, ...]],
    source: str = "llm.pt",
) -> dict[str, Any]:
    """Builds our tree; the tied head is compared with the text table and dropped.

    Args:
      official: {official key: float32 array}; the tied head may be absent.
      config: sizes.
      shapes: {our dotted path: shape}.
      source: what error messages call the checkpoint.

    Raises:
      InputError: keys that do not fit, or a tied head that differs from the text table.
    """
    tied = official.get(TIED_HEAD)
    kept = {k: v for k, v in official.items() if k != TIED_HEAD}
    params = import_tensors(rules(config), kept, shapes, source)
    if tied is not None and not np.array_equal(tied, kept[TEXT_TABLE]):
        raise InputError(
            f"{source}: {TIED_HEAD} differs from {TEXT_TABLE}; they are one tensor in CosyVoice 2"
        )
    return params


def export_lm(params: Mapping[str, Any], config: TextSpeechLMConfig) -> dict[str, np.ndarray]:
    """The way back, in official order, with the tied head written again after the last norm."""
    official: dict[str, np.ndarray] = {}
    for key, value in export_tensors(rules(config), params).items():
        official[key] = value
        if key == "llm.model.model.norm.weight":
            official[TIED_HEAD] = official[TEXT_TABLE]
    return official
