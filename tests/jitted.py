"""A module whose calls are compiled: the contracts run op by op otherwise, which is slow."""

from __future__ import annotations

import functools
from typing import Any

import jax


class Jitted:
    """Stands in for a Linen module in `assert_streams`."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._whole = jax.jit(module.apply)
        self._step = jax.jit(functools.partial(module.apply, method="step"))

    def apply(self, variables: Any, *args: Any, method: str | None = None) -> Any:
        """As `module.apply`; `init_state` takes plain numbers and stays uncompiled."""
        if method == "init_state":
            return self.module.apply(variables, *args, method=method)
        return (self._step if method == "step" else self._whole)(variables, *args)
