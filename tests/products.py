"""Finds the matrix products of a traced function, to see which types they multiply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def matrix_products(jaxpr: Any) -> Iterator[tuple[tuple[str, str], int]]:
    """Yields ((dtype, dtype), flops) of every dot and convolution, inner functions included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            left, right = (v.aval for v in equation.invars)
            yield (str(left.dtype), str(right.dtype)), _flops(equation)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from matrix_products(inner)


def _flops(equation: Any) -> int:
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    if equation.primitive.name != "dot_general":
        return 2 * out.size * equation.invars[1].aval.size // out.shape[-1]
    (contracted, _), _ = equation.params["dimension_numbers"]
    size = 1
    for axis in contracted:
        size *= left.shape[axis]
    return 2 * out.size * size
