"""A bundle with random weights at any size: for timings and tests, not for listening."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.infer.bundle import BundleConfig
from cosyjax.infer.modules import MODULES

HEAD_BIAS = (jax.tree_util.DictKey("head"), jax.tree_util.DictKey("bias"))


def random_params(config: BundleConfig, modules: tuple[str, ...]) -> dict[str, Any]:
    """Draws the parameters of the named modules, each scaled by the root of its fan-in."""
    return {
        name: draw_params(MODULES[name].init_params, config.of(name), seed)
        for seed, name in enumerate(modules)
    }


def draw_params(init: Any, config: Any, seed: int) -> Any:
    """Draws what `init(config, key)` would make."""
    # numpy draws 500 M values in seconds; the initialisers' own draws take a minute on two cores.
    shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    stream = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name in ("scale", "var", "alpha"):
            value = np.ones(leaf.shape, np.float32)
        elif len(leaf.shape) < 2 or name == "mean":
            value = np.zeros(leaf.shape, np.float32)
        else:
            fan_in = int(np.prod(leaf.shape[:-1]))
            value = stream.standard_normal(leaf.shape, dtype=np.float32)
            value *= 1.0 / np.sqrt(fan_in if name != "embedding" else 4.0)
        if path[-2:] == HEAD_BIAS:
            # A sentence of random weights must not end by chance: timings want full lengths.
            value[config.codebook_size :] = -1e4
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(one, shapes)
