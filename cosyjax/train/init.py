"""Where parameters start other than at random: a bundle, or a text model.

Reading gives trees that may lack parts (a text model has no speech head); `replace` puts what is
there in the place of drawn parameters, on the devices where those lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax.convert import qwen2
from cosyjax.errors import InputError
from cosyjax.infer.bundle import check_parameters, load_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.task import Params


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


def replace(params: Params, given: Mapping[str, Any]) -> tuple[Params, list[str]]:
    """Puts given parameters in the place of drawn ones.

    Args:
      params: {group: tree} of arrays, unboxed.
      given: the same with leaves missing; numpy arrays are read shard by shard.

    Returns:
      params: every given leaf on the devices of the one that it replaces.
      kept: dotted names of the leaves that keep what was drawn, frozen groups included.

    Raises:
      InputError: a given leaf that `params` does not have, or of another shape.
    """
    drawn, found = _flatten(params), _flatten(given)
    wanted = {name: tuple(leaf.shape) for name, leaf in drawn.items()}
    bad = [
        f"{name}: {tuple(leaf.shape)}, needed {wanted.get(name, 'nothing')}"
        for name, leaf in found.items()
        if tuple(leaf.shape) != wanted.get(name)
    ]
    if bad:
        raise InputError("parameters do not fit the task:\n  " + "\n  ".join(bad))
    names = iter(drawn)

    def one(leaf: jax.Array) -> jax.Array:
        name = next(names)
        return _place(found[name], leaf) if name in found else leaf

    return jax.tree.map(one, params), [name for name in drawn if name not in found]


def _place(value: Any, like: jax.Array) -> jax.Array:
    value = np.asarray(value)
    read = lambda index: value[index].astype(like.dtype)
    return jax.make_array_from_callback(like.shape, like.sharding, read)


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in leaves}
