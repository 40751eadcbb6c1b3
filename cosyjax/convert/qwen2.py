"""A Qwen2 text checkpoint (a Hugging Face folder) as the start of the language model.

It gives the blocks, their final norm and the text embedding. Speech embedding, speech head and the
two special ids are CosyVoice 2's own and are drawn. Qwen2's text head is not used, tied or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax.convert import names_lm
from cosyjax.convert.mapping import Rule, flatten, import_tensors
from cosyjax.errors import InputError
from cosyjax.io.files import load_arrays
from cosyjax.models.text_speech_lm import TextSpeechLMConfig, init_params

PREFIX = "llm.model."  # what the official checkpoint puts before Qwen2's own names
TEXT_TABLE = names_lm.TEXT_TABLE.removeprefix(PREFIX)
TEXT_HEAD = names_lm.TIED_HEAD.removeprefix(PREFIX)
_INDEX = "model.safetensors.index.json"
_SIZES = {  # ours -> Qwen2's
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "mlp_dim": "intermediate_size",
    "rope_theta": "rope_theta",
    "norm_epsilon": "rms_norm_eps",
}


def is_qwen2(folder: Path) -> bool:
    """True for a folder whose config.json says so."""
    return (folder / "config.json").is_file() and _read_config(folder).get("model_type") == "qwen2"


def read_qwen2(folder: Path, config: TextSpeechLMConfig, seed: int = 0) -> dict[str, Any]:
    """Reads the blocks and the text embedding of a checkpoint.

    Args:
      folder: with config.json and model.safetensors, or several of them and their index.
      config: sizes of our model. `text_vocab_size` may exceed the checkpoint's rows: rows beyond
        them are drawn with the spread of those that are there. Fewer rows are refused, for the
        rows that would go are those of some tokenizer's ids.
      seed: of the rows that are drawn.

    Returns:
      Canonical numpy float32 tree with "backbone" and "text_embedding".

    Raises:
      InputError: no checkpoint there, or its sizes are not those of `config`.
    """
    _check_sizes(folder, config)
    tensors = _read_tensors(folder)
    tensors.pop(TEXT_HEAD, None)
    if TEXT_TABLE in tensors:
        tensors[TEXT_TABLE] = _fit_rows(folder, tensors[TEXT_TABLE], config.text_vocab_size, seed)
    table = [
        Rule(rule.ours, rule.theirs.removeprefix(PREFIX), rule.layout)
        for rule in names_lm.rules(config)
        if rule.theirs.startswith(PREFIX)
    ]
    return import_tensors(table, tensors, _shapes(config, table), str(folder))


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    return values if isinstance(values, dict) else {}


def _check_sizes(folder: Path, config: TextSpeechLMConfig) -> None:
    hf = dict(_read_config(folder))
    hf |= hf.get("rope_parameters") or {}  # where transformers 5 writes rope_theta
    wrong = [
        f"{ours}={getattr(config, ours)}, the checkpoint has {hf[theirs]}"
        for ours, theirs in _SIZES.items()
        if theirs in hf and getattr(config, ours) != hf[theirs]
    ]
    if hf.get("use_sliding_window"):
        wrong.append("use_sliding_window is not supported")
    if wrong:
        raise InputError(f"{folder}: sizes differ: {'; '.join(wrong)}. Set task.model to these")


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors as float32, mapped where they are stored so."""
    if (folder / _INDEX).is_file():
        try:
            listed = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(listed.values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder / _INDEX}: not an index of weights ({error})") from error
    else:
        names = ["model.safetensors"]
    found: dict[str, np.ndarray] = {}
    for name in names:
        found |= load_arrays(folder / name)[0]
    return {name: tensor.astype(np.float32, copy=False) for name, tensor in found.items()}


def _fit_rows(folder: Path, rows: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    if rows.shape[0] > wanted:
        raise InputError(
            f"{folder}: the text embedding has {rows.shape[0]} rows, text_vocab_size={wanted} is "
            f"fewer; set task.model.text_vocab_size={rows.shape[0]} and use its tokenizer"
        )
    if rows.shape[0] == wanted:
        return rows
    draw = np.random.default_rng(seed).standard_normal((wanted - rows.shape[0], rows.shape[1]))
    return np.concatenate([rows, (draw * rows.std()).astype(np.float32)])


def _shapes(config: TextSpeechLMConfig, table: list[Rule]) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    ours = {rule.ours for rule in table}
    return {path: leaf.shape for path, leaf in flatten(tree).items() if path in ours}
