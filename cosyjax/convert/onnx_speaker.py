"""`campplus.onnx` to official keys and back.

The official file is a traced network whose batch norms were folded into the convolutions before
them. Folded weights are anonymous there; the module they belong to is read from the name of the
node that uses them: `/head/layer1/layer1.0/conv1/Conv` is `head.layer1.0.conv1`.
"""

from __future__ import annotations

import os

import numpy as np

from cosyjax.convert.onnx_graph import Graph, Node, read_graph
from cosyjax.errors import InputError

# What each input position of an operator is called in a state dict.
SUFFIXES = {
    "Conv": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
}
PLAIN_NORM = "xvector.dense.nonlinear.batchnorm"  # the one norm without scale and bias


def read_campplus(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the weights, folded or not: {official key: array}.

    `names_speaker.config_from_shapes` tells from the keys whether the norms are folded.

    Raises:
      InputError: not an ONNX file, or not a CAM++ network.
    """
    graph = read_graph(path)
    tensors: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.op in SUFFIXES:
            tensors |= _weights(node, graph)
    if f"{PLAIN_NORM}.running_mean" not in tensors:
        names = ", ".join(sorted(tensors)[:3]) or "no convolution with a name"
        raise InputError(f"{path}: not a CAM++ speaker encoder: it holds {names}")
    scale, bias = (tensors.pop(f"{PLAIN_NORM}.{end}", None) for end in ("weight", "bias"))
    trivial = (scale is None or np.all(scale == 1)) and (bias is None or np.all(bias == 0))
    if not trivial:
        raise InputError(f"{path}: {PLAIN_NORM} has a scale and a bias; CAM++ has none there")
    return tensors


def _weights(node: Node, graph: Graph) -> dict[str, np.ndarray]:
    module = module_name(node.name)
    found: dict[str, np.ndarray] = {}
    for position, value in graph.weights_of(node).items():
        suffix = SUFFIXES[node.op].get(position)
        named = node.inputs[position]
        if suffix is None:
            continue
        # A tensor that kept its state-dict name is believed; "onnx::Conv_12" and "/a/b" are not.
        kept = named.endswith(f".{suffix}") and not named.startswith(("onnx::", "/"))
        found[named if kept else f"{module}.{suffix}"] = value
    return found


def module_name(node_name: str) -> str:
    """`/head/layer1/layer1.0/conv1/Conv` -> `head.layer1.0.conv1`."""
    parts: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part  # a member of a Sequential repeats the name of its parent
        else:
            parts.append(part)
    return ".".join(parts)
