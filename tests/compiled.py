"""A module whose `apply` is compiled: contracts then cost one program instead of a hundred."""

from __future__ import annotations

import functools
from typing import Any

import jax


class Compiled:
    """Stands in for an unbound Linen module in `contracts`."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def apply(self, variables: Any, *args: Any, method: str = "__call__") -> Any:
        """`module.apply`; states are made outside a program because their sizes are static."""
        if method == "init_state":
            return self.module.apply(variables, *args, method=method)
        return _apply(self.module, method, variables, *args)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: Any, method: str, variables: Any, *args: Any) -> Any:
    return module.apply(variables, *args, method=method)
