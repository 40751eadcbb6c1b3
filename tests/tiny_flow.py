"""The smallest flow that has every part, with parameters drawn without compiling anything."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.flow import FlowConfig, init_params
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig

MELS = 4
TINY = FlowConfig(
    vocab_size=9,
    speaker_dim=5,
    mask_chunk=2,
    num_steps=2,
    encoder=UpsampleEncoderConfig(8, 2, 8, 1, 1),
    estimator=EstimatorConfig(MELS, 8, 8, 1, 1, 2, 4, 8),
)


def tiny_params(config: FlowConfig = TINY) -> Any:
    """Draws every leaf, biases and scales included, so that no part is an identity."""
    stream = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    draw = lambda leaf: 0.4 * stream.standard_normal(leaf.shape, np.float32)
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf)), shapes)
