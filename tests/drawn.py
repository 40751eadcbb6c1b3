"""Parameters and inputs from numpy: compiling an initialiser takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def drawn(init: Callable[..., Any], *args: Any, scale: float = 0.3) -> Any:
    """What `init(key, *args)` makes, unboxed, with other numbers in it.

    Every leaf is drawn, biases and scales included, so that no part is an identity.
    """
    shapes = nn.meta.unbox(jax.eval_shape(init, jax.random.key(0), *args))
    stream = np.random.default_rng(0)
    draw = lambda leaf: scale * stream.standard_normal(leaf.shape, np.float32)
    return jax.tree.map(lambda leaf: np.asarray(draw(leaf)), shapes)
