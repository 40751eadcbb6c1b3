"""Which vocoder a config describes: the official HiFT or the causal one."""

from __future__ import annotations

from typing import Any

import jax

from cosyjax.models import causal_hift, hift
from cosyjax.models.causal_hift import CausalHiFT
from cosyjax.models.hift import HiFT, HiFTConfig

Vocoder = HiFT | CausalHiFT


def make_vocoder(config: HiFTConfig) -> Vocoder:
    """Returns the module; both have `__call__`, `f0`, `source` and `decode`."""
    return CausalHiFT(config) if config.causal else HiFT(config)


def init_params(config: HiFTConfig, key: jax.Array) -> Any:
    """Draws an unboxed parameter tree."""
    return (causal_hift if config.causal else hift).init_params(config, key)


def fold_weight_norm(params: Any, config: HiFTConfig) -> tuple[Any, HiFTConfig]:
    """Computes every kernel once: parameters and config for inference, equal in what they say."""
    return (causal_hift if config.causal else hift).fold_weight_norm(params, config)
