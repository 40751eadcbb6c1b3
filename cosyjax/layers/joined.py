"""Several dense layers that read the same input, by one product.

Unlike the `fused` form of the parameters, which is for inference, this leaves the tree as it is:
kernels are put side by side where they are used, and gradients come apart again. It pays, if at
all, where the layers are narrow: what their results' gradients take to be put side by side grows
with their width, what is saved (x read, and its gradients added) with that of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cosyjax.layers.basic import LORA_UP, Dense
from cosyjax.ops import product
from cosyjax.ops.heads import num_parts


def joined(layers: Sequence[Dense], x: jax.Array, *, join: bool) -> list[jax.Array]:
    """What each of the layers makes of `x` [..., D].

    Args:
      layers: bound, of equal `compute`.
      x: their input.
      join: by one product, unless the parameters are being drawn, have low-rank corrections, or
        lie in parts on several devices, where kernels side by side would change places.
    """

    def alone(layer: Dense) -> bool:
        cut = layer.axes[1] is not None and num_parts(layer.axes[1]) > 1
        return cut or layer.is_initializing() or layer.has_variable("params", LORA_UP)

    if not join or any(map(alone, layers)):
        return [layer(x) for layer in layers]
    params = [layer.variables["params"] for layer in layers]
    kernels = [own["kernel"] for own in params]
    if layers[0].compute == "bfloat16":  # half as much to put side by side
        kernels = [kernel.astype(jnp.bfloat16) for kernel in kernels]
    y = product.dense(x, jnp.concatenate(kernels, axis=1), compute=layers[0].compute)
    ends = [0]
    for kernel in kernels:
        ends.append(ends[-1] + kernel.shape[1])
    parts = [y[..., start:end] for start, end in zip(ends, ends[1:])]
    return [part + own["bias"] if "bias" in own else part for part, own in zip(parts, params)]
