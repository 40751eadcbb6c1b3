"""Low-rank corrections of frozen kernels (LoRA, arXiv 2106.09685).

A corrected kernel is W + scale * A B. Training computes x W + (x A) B in the layer itself (see
`layers.basic.Dense`), so no gradient of a whole kernel is ever made; `merge` adds the product to
the kernel, for export.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cosyjax.errors import InputError, nearest
from cosyjax.layers.basic import LORA_DOWN, LORA_UP

TARGETS = ("query", "key", "value", "out", "gate", "up", "down")  # dense layers of a block


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which kernels are corrected, and by how much."""

    rank: int = 0  # columns of A; 0 trains all parameters and freezes none
    alpha: float = 16.0  # the correction is multiplied by alpha / rank
    targets: tuple[str, ...] = TARGETS  # names of the dense layers

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not self.targets:
            raise InputError(
                f"lora rank={self.rank} must not be negative, alpha={self.alpha} positive, "
                f"targets={self.targets} not empty"
            )
        for name in self.targets:
            if name not in TARGETS:
                raise InputError(f"lora target {name!r}; {nearest(name, TARGETS)}")

    @property
    def scale(self) -> float:
        return self.alpha / max(self.rank, 1)


def init_boxed(base: Mapping[str, Any], config: LoRAConfig, key: jax.Array) -> dict[str, Any]:
    """Draws corrections that change nothing yet: A is normal, B is zero.

    Args:
      base: the boxed tree, per layer or stacked.
      config: rank and targets.
      key: a jax key.

    Returns:
      {"...": {target: {LORA_DOWN: [..., in, rank], LORA_UP: [..., rank, out]}}}, boxed.

    Raises:
      InputError: none of the targets is in the tree.
    """
    tree: dict[str, Any] = {}
    for index, (path, layer) in enumerate(_targets(base, config.targets)):
        kernel, names = nn.meta.unbox(layer["kernel"]), layer["kernel"].names
        *lead, inputs, outputs = kernel.shape
        draw = jax.random.normal(jax.random.fold_in(key, index), (*lead, inputs, config.rank))
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        box = nn.LogicallyPartitioned
        down, up = (*names[:-1], None), (*names[:-2], None, names[-1])
        node[LORA_DOWN] = box(draw * inputs**-0.5, down)
        node[LORA_UP] = box(jnp.zeros((*lead, config.rank, outputs), jnp.float32), up)
    if not tree:
        raise InputError(f"no layer of the model is named as one of targets={config.targets}")
    return tree


def _targets(
    tree: Mapping[str, Any], targets: tuple[str, ...], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yields (path, layer) of every dense layer named in `targets`, in order of their paths."""
    for name in sorted(tree):
        child = tree[name]
        if not isinstance(child, Mapping):
            continue
        if name in targets and "kernel" in child:
            yield (*path, name), child
        else:
            yield from _targets(child, targets, (*path, name))


def attach(base: Mapping[str, Any], lora: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Lays the corrections beside the kernels that they correct, as the layers read them."""
    if LORA_UP in lora:
        return {**base, LORA_DOWN: lora[LORA_DOWN], LORA_UP: scale * lora[LORA_UP]}
    corrected = {name: attach(base[name], lora[name], scale) for name in lora}
    return {**base, **corrected}


def merge(base: Mapping[str, Any], lora: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Adds the corrections to the kernels: a tree like `base`."""
    if LORA_UP in lora:
        added = jnp.matmul(lora[LORA_DOWN], lora[LORA_UP], precision=jax.lax.Precision.HIGHEST)
        return {**base, "kernel": base["kernel"] + scale * added}
    return {**base, **{name: merge(base[name], lora[name], scale) for name in lora}}
