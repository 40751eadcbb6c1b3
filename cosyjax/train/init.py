"""Where parameters start: a bundle, a text model, or one draw for all of them.

Reading gives canonical trees of host arrays, which may lack parts: a text model has no speech head.
What is there takes the place of drawn parameters (`train.checkpoint.replace_params`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.convert import qwen2
from cosyjax.infer.bundle import check_parameters, load_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.text_speech_lm import TextSpeechLMConfig

TABLE_SPREAD = 0.02


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


def draw_all(boxed: Any, key: jax.Array) -> Any:
    """Draws a model's parameters from one normal vector, cut up.

    A program with a draw for each of the flow's 1100 parameters compiles for minutes; this one in
    seconds. Kernels have the variance 1 / fan-in, tables a deviation of 0.02, biases of attention
    that of Glorot's initializer; other biases are zeros and scales ones.

    Args:
      boxed: shapes with the names of their axes, as `jax.eval_shape` gives them.
      key: a jax key.
    """
    shapes = nn.meta.unbox(boxed)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    spreads = [_spread(path[-1].key, leaf.shape) for path, leaf in leaves]
    total = sum(leaf.size for (_, leaf), spread in zip(leaves, spreads) if spread)
    # Without the barrier the draw might be computed again for every cut.
    normal = jax.lax.optimization_barrier(jax.random.normal(key, (total,), jnp.float32))
    drawn, start = [], 0
    for (path, leaf), spread in zip(leaves, spreads):
        if not spread:
            fill = jnp.ones if path[-1].key == "scale" else jnp.zeros
            drawn.append(fill(leaf.shape, jnp.float32))
            continue
        cut = jax.lax.slice_in_dim(normal, start, start + leaf.size)
        drawn.append(spread * cut.reshape(leaf.shape))
        start += leaf.size
    tree = jax.tree.unflatten(jax.tree.structure(shapes), drawn)
    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)
    return jax.tree.map(lambda box, x: box.replace_boxed(x), boxed, tree, is_leaf=is_box)


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a fresh parameter; 0 for what is constant."""
    if name == "kernel":
        return math.prod(shape[:-1]) ** -0.5
    if name == "embedding":
        return TABLE_SPREAD
    if name in ("content_bias", "position_bias"):
        return (2.0 / sum(shape)) ** 0.5
    return 0.0


def _flatten(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in leaves}
