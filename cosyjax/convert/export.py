"""A bundle back to an official folder, tensor by tensor the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.convert import mapping, names_lm, onnx_speaker, onnx_tokenizer_graph, spk2info
from cosyjax.convert.official import BACKBONE, SOURCES, SPEAKERS
from cosyjax.convert.torch_files import write_state_dict
from cosyjax.infer.bundle import Bundle, Tell
from cosyjax.io import files
from cosyjax.models.text_speech_lm import TextSpeechLMConfig

MARKS = ("llm.pt",)  # a folder without it is no official one, and `force` does not replace it
_ROOM_FACTOR = 1.01  # archives and graphs add little to their tensors


def export_bundle(
    bundle: Bundle, path: Path | str, *, force: bool = False, tell: Tell = lambda line: None
) -> None:
    """Writes llm.pt, flow.pt, hift.pt, both ONNX files, tokenizer and speakers.

    Tensors that came in another type than float32 go back to it. The voices' notes and the
    official configuration file have no place in that layout and are left out.

    Args:
      bundle: with all its modules.
      path: the folder to make; it appears whole or not at all.
      force: replace a folder that is not empty.
      tell: called with a line per file.

    Raises:
      InputError: a folder in the way, or a full disk.
    """
    needed = sum(a.nbytes for p in bundle.params.values() for a in mapping.flatten(p).values())
    room = int(needed * _ROOM_FACTOR)
    with files.atomic_folder(path, force=force, marks=MARKS, needed_bytes=room) as folder:
        # Graphs first: they are copied several times, best while little of the bundle is mapped.
        for module in reversed(list(bundle.params)):
            start = time.perf_counter()
            target = folder / SOURCES[module].files[0]
            _write_module(bundle, module, target)
            size, seconds = target.stat().st_size, time.perf_counter() - start
            tell(f"wrote {target.name}: {size:,} bytes in {seconds:.1f} s")
        _write_backbone(bundle, folder / BACKBONE)
        if len(bundle.voices):
            spk2info.write_voices(folder / SPEAKERS, bundle.voices, bundle.tokenizer)


def official_tensors(bundle: Bundle, module: str) -> dict[str, np.ndarray]:
    """{official key: array} of one module, in the official order."""
    params, sizes = bundle.params[module], bundle.config.of(module)
    if module == "text_speech_lm":
        return names_lm.export_lm(params, sizes)
    return mapping.export_tensors(SOURCES[module].rules(sizes), params)


def _write_module(bundle: Bundle, module: str, path: Path) -> None:
    tensors = official_tensors(bundle, module)
    if module == "speech_tokenizer":
        onnx_tokenizer_graph.write_tokenizer(path, tensors)
    elif module == "speaker_encoder":
        onnx_speaker.write_campplus(path, tensors, bundle.config.speaker_encoder)
    else:
        write_state_dict(path, tensors, _official_dtypes(bundle, module))


def _official_dtypes(bundle: Bundle, module: str) -> dict[str, str]:
    ours = bundle.stored_dtypes.get(module, {})
    rules = SOURCES[module].rules(bundle.config.of(module))
    dtypes = {rule.theirs: ours[rule.ours] for rule in rules if rule.ours in ours}
    if names_lm.TEXT_TABLE in dtypes:
        dtypes[names_lm.TIED_HEAD] = dtypes[names_lm.TEXT_TABLE]
    return dtypes


def _write_backbone(bundle: Bundle, folder: Path) -> None:
    """Tokenizer, sizes, and the one tensor that lets the official loader open the folder.

    That loader builds the backbone from here and then replaces every weight by those in llm.pt,
    so the 2 GB are not written twice.
    """
    bundle.tokenizer.save_base(folder)
    config = bundle.config.lm
    text = json.dumps(backbone_config(config), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    scale = np.asarray(bundle.params["text_speech_lm"]["backbone"]["norm"]["scale"])
    tensors: Mapping[str, Any] = {"model.norm.weight": scale}
    files.save_arrays(folder / "model.safetensors", tensors, metadata={"format": "pt"})


def backbone_config(config: TextSpeechLMConfig) -> dict[str, Any]:
    """The backbone's sizes as Qwen2's `config.json` names them."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": config.embed_dim,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.text_vocab_size,
    }
