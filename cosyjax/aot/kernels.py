"""Products inside of hand-written TPU kernels, which the text of a program does not show.

Known are the kernels that this package uses; another one is an error rather than a zero.
"""

from __future__ import annotations

import math
import re

from cosyjax.aot.cost import Product, Visit, walk
from cosyjax.aot.hlo import Module, Shape

TARGET = "tpu_custom_call"
# Products of [T, P] by [S, P] or of their like in a splash kernel: scores and values forward; the
# scores again, and four for the gradients of queries, keys, values and weights.
PASSES = {"fwd": 2, "dkv": 5}
_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dkv|dq)")


def products(module: Module, causal: bool) -> list[Product]:
    """The products of every kernel.

    Args:
      module: a program.
      causal: its kernels skip the blocks above the diagonal; else a block may be seen by any.

    Raises:
      NotImplementedError: a kernel whose work is not known here.
    """
    return [
        _splash(visit, causal)
        for visit in walk(module)
        if visit.one.opcode == "custom-call" and f'"{TARGET}"' in visit.one.rest
    ]


def _splash(visit: Visit, causal: bool) -> Product:
    """Splash attention, forward or backward."""
    kind = _SPLASH.search(visit.one.op_name)
    if kind is None or kind[1] not in PASSES:
        raise NotImplementedError(f"no count for the kernel {visit.one.op_name!r}")
    shapes = [group[0] for group in visit.inside.operand_shapes(visit.one)]
    heads = [shape for shape in shapes if shape.dtype in ("bf16", "f32") and len(shape.dims) >= 3]
    query, key = heads[0], heads[1]
    pairs = math.prod(query.dims[:-1]) * key.dims[-2] * (_seen(visit, query) if causal else 1.0)
    flops = 2.0 * PASSES[kind[1]] * pairs * query.dims[-1]
    return Product(flops, visit.times, query.dtype, 1, visit.one.op_name)


def _seen(visit: Visit, query: Shape) -> float:
    """Share of the blocks that hold a pair on or under the diagonal."""
    block = re.search(r'block_q(?:_dkv)?\\*"?:? *\\*"?(\d+)', visit.one.rest)
    count = -(-query.dims[-2] // int(block[1])) if block else 1
    return (count + 1) / (2 * count)
