"""Where parameters start other than at random: a bundle, or a text model.

Reading gives canonical trees of host arrays, which may lack parts: a text model has no speech head.
What is there takes the place of drawn parameters (`train.checkpoint.replace_params`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from cosyjax.convert import qwen2
from cosyjax.infer.bundle import check_parameters, load_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.text_speech_lm import TextSpeechLMConfig


def read_lm(path: Path | str, config: TextSpeechLMConfig) -> dict[str, Any]:
    """The canonical tree of a bundle's language model, or the part that a Qwen2 folder has."""
    folder = Path(path)
    if qwen2.is_qwen2(folder):
        return qwen2.read_qwen2(folder, config)
    return read_module(folder, "text_speech_lm", config)


def read_module(path: Path | str, module: str, config: Any) -> dict[str, Any]:
    """The canonical tree of one module of a bundle.

    Raises:
      InputError: no bundle there, or its sizes are not those of `config`.
    """
    tree = load_bundle(path, modules=(module,)).params[module]
    given = {name: leaf.shape for name, leaf in _flatten(tree).items()}
    check_parameters(given, parameter_shapes(module, config), f"{path}, {module}")
    return tree


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in leaves}
