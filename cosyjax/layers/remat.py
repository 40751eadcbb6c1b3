"""What the backward pass keeps and what it computes again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from cosyjax.errors import InputError
from cosyjax.ops import heads, product

REMAT_POLICIES = ("none", "dots", "full")


def check_policy(policy: str) -> None:
    """Raises InputError unless `policy` is one of REMAT_POLICIES."""
    if policy not in REMAT_POLICIES:
        raise InputError(f"remat={policy!r}; allowed: {', '.join(REMAT_POLICIES)}")


def remat(module: Any, policy: str, methods: Sequence[str], *, scanned: bool = False) -> Any:
    """Returns the module class with its intermediate values recomputed in the backward pass.

    Args:
      module: a Linen module class.
      policy: "none" keeps every value; "dots" keeps the products with parameters, and what a kernel
        of attention gives, and computes the rest again, attention's scores included; "full" keeps
        what goes into the module alone.
      methods: of the module.
      scanned: a scan already keeps the compiler from undoing the recomputation; modules outside
        of one need a barrier.
    """
    if policy == "none":
        return module
    # By name: policies that look for products do not see into those with a gradient of their own.
    saveable = jax.checkpoint_policies.save_only_these_names(product.DENSE, heads.ATTENDED)
    return nn.remat(
        module,
        policy=saveable if policy == "dots" else None,
        prevent_cse=not scanned,
        methods=list(methods),
    )
