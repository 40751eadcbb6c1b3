"""`speech_tokenizer_v2.onnx`: official tensors out of the graph.

The released graph keeps few names: dense weights and the first convolutions are anonymous
(`onnx::MatMul_2536`). They are recovered from what consumes them: the node's path says the module,
its operator the role. Numbers in anonymous names are not looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from cosyjax.convert.names_tokenizer import PROJECT
from cosyjax.convert.onnx_graph import Graph, Node, read_graph
from cosyjax.errors import InputError

_IN_BLOCK = re.compile(r"blocks\.(\d+)/(.+)/[^/]+$")


def read_tokenizer(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads {official state-dict key: float32 array}.

    Raises:
      InputError: not an ONNX model, or not a speech tokenizer v2.
    """
    graph = read_graph(path)
    found: dict[str, np.ndarray] = {}
    for key, value in _weights(graph):
        if key in found and not np.array_equal(found[key], value):
            raise InputError(f"{path}: two different tensors fit {key}")
        found[key] = np.ascontiguousarray(value, np.float32)
    if "encoder.conv1.weight" not in found or f"{PROJECT}.weight" not in found:
        raise InputError(f"{path}: not a speech tokenizer v2: no strided convolution or projection")
    return found


def _weights(graph: Graph) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (official key, array in the official layout), in the order of execution."""
    num_convs = 0
    for node in graph.nodes:
        stored, module = graph.weights_of(node), _module(node)
        if node.op == "Conv" and 1 in stored:
            if module is None:
                num_convs += 1
                module = f"encoder.conv{num_convs}"
            yield f"{module}.weight", stored[1]
            if 2 in stored:
                yield f"{module}.bias", stored[2]
        elif node.op == "LayerNormalization" and module:
            yield f"{module}.weight", stored[1]
            yield f"{module}.bias", stored[2]
        elif module and module.endswith("_ln") and node.op in ("Mul", "Add"):
            # Before opset 17 a layer norm is a chain; only its scale and bias are vectors.
            role = "weight" if node.op == "Mul" else "bias"
            yield from ((f"{module}.{role}", v) for v in stored.values() if v.ndim == 1)
        elif node.op in ("MatMul", "Gemm") and 1 in stored and stored[1].ndim == 2:
            yield from _dense(graph, node, module or PROJECT)


def _module(node: Node) -> str | None:
    """The official module of a node inside a block: /blocks.0/mlp/mlp.2/MatMul -> ...mlp.2."""
    match = _IN_BLOCK.search(node.name)
    if match is None:
        return None
    path = match.group(2).replace("/", ".").replace("mlp.mlp", "mlp")
    return f"encoder.blocks.{match.group(1)}.{path}"


def _dense(graph: Graph, node: Node, module: str) -> Iterator[tuple[str, np.ndarray]]:
    """ONNX multiplies by [in, out]; the official layout is [out, in]. The bias is added behind."""
    stored = graph.weights_of(node)
    yield f"{module}.weight", stored[1] if node.attributes.get("transB") else stored[1].T
    if 2 in stored:
        yield f"{module}.bias", stored[2]
    for consumer, _ in graph.consumers(node.outputs[0]):
        if consumer.op == "Add":
            added = graph.weights_of(consumer).values()
            yield from ((f"{module}.bias", v) for v in added if v.ndim == 1)
