"""`campplus.onnx` to official keys and back.

The official file is a traced network whose batch norms were folded into the convolutions before
them. Folded weights are anonymous there; the module they belong to is read from the name of the
node that uses them: `/head/layer1/layer1.0/conv1/Conv` is `head.layer1.0.conv1`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cosyjax.convert.onnx_graph import Graph, GraphBuilder, Node, read_graph
from cosyjax.errors import InputError
from cosyjax.layers.campplus import EPSILON
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig

# What each input position of an operator is called in a state dict.
SUFFIXES = {
    "Conv": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
}
PLAIN_NORM = "xvector.dense.nonlinear.batchnorm"  # the one norm without scale and bias
# Convolution: the norm after it, which folding removes (and one more after the last transit).
NORM_AFTER = {
    r"(head(?:\.layer.*)?)\.conv(\d)": r"\1.bn\2",
    r"(head.*\.shortcut)\.0": r"\1.1",
    r"xvector\.tdnn\.linear": "xvector.tdnn.nonlinear.batchnorm",
    r"(xvector\.block\d+\.tdnnd\d+)\.linear1": r"\1.nonlinear2.batchnorm",
}


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


def write_campplus(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    config: SpeakerEncoderConfig,
) -> None:
    """Writes a network that onnxruntime runs: input [batch, frame, 80], output [batch, 192].

    Args:
      path: the file; it appears complete or not at all.
      tensors: {official key: array}, folded or not as `config` says; written bit for bit.
      config: sizes.

    Raises:
      InputError: the file cannot be written.
    """
    writer = _Writer(tensors, config)
    x = writer.graph.input("input", ("batch", "frame", config.num_mels))
    x = writer.node("Transpose", [x], "/Transpose", perm=[0, 2, 1])
    x = writer.head(x)
    x = writer.relu(writer.conv(x, "xvector.tdnn.linear", stride=2), "xvector.tdnn.nonlinear.relu")
    for block, num_layers in enumerate(config.num_layers):
        for layer in range(num_layers):
            x = writer.dense_layer(x, block, layer)
        x = writer.norm_relu(x, f"xvector.transit{block + 1}.nonlinear")
        x = writer.conv(x, f"xvector.transit{block + 1}.linear")
    x = writer.relu(x, "xvector.out_nonlinear.relu")
    writer.tail(x)
    writer.graph.output("output", ("batch", config.embed_dim))
    writer.graph.save(path)


class _Writer:
    """Builds the graph with the node names of the official export.

    A convolution looks up the norm that follows it in `NORM_AFTER`: with unfolded weights it
    appends that BatchNormalization, with folded ones it carries a bias under an anonymous name.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], config: SpeakerEncoderConfig) -> None:
        self.graph = GraphBuilder("main_graph")
        self.tensors, self.config, self._anonymous = tensors, config, 0

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Appends an operation and returns its output."""
        return self.graph.node(op, inputs, name=name, **attributes)

    def relu(self, x: str, module: str) -> str:
        """ReLU of a module such as `xvector.tdnn.nonlinear.relu`."""
        return self.node("Relu", [x], f"{_path(module)}/Relu")

    def conv(self, x: str, module: str, *, stride: int = 1, dilation: int = 1) -> str:
        """A centred convolution, over time or over (mel, time), with its norm."""
        weight = self.tensors[f"{module}.weight"]
        taps = list(weight.shape[2:])
        spread = [dilation * (size // 2) for size in taps]
        folded = f"{module}.bias" in self.tensors and ".cam_layer." not in module
        names = [x, *(self._store(module, end, folded) for end in ("weight", "bias"))]
        y = self.node(
            "Conv",
            [name for name in names if name],
            f"{_path(module)}/Conv",
            kernel_shape=taps,
            pads=spread * 2,
            strides=[stride, 1][: len(taps)],
            dilations=[dilation] * len(taps),
            group=1,
        )
        norm = _norm_after(module, self.config)
        return self.norm(y, norm) if norm and not folded else y

    def norm(self, x: str, module: str, outputs: list[str] | None = None) -> str:
        """A BatchNormalization; one without scale and bias gets constant ones and zeros."""
        path, size = _path(module), self.tensors[f"{module}.running_mean"].shape
        names = [x]
        for end, value in (("weight", np.ones), ("bias", np.zeros)):
            if f"{module}.{end}" in self.tensors:
                names.append(self._store(module, end, False))
            else:
                constant = self.graph.constant(
                    value(size, np.float32), name=f"{path}/Constant_{end}"
                )
                names.append(constant)
        names += [self._store(module, end, False) for end in ("running_mean", "running_var")]
        name = f"{path}/BatchNormalization"
        return self.graph.node(
            "BatchNormalization", names, name=name, outputs=outputs, epsilon=EPSILON
        )

    def norm_relu(self, x: str, module: str) -> str:
        """The norm and ReLU before a product."""
        return self.relu(self.norm(x, f"{module}.batchnorm"), f"{module}.relu")

    def _store(self, module: str, end: str, anonymous: bool) -> str:
        key = f"{module}.{end}"
        if key not in self.tensors:
            return ""
        if anonymous:
            self._anonymous += 1
            return self.graph.tensor(f"onnx::Conv_{self._anonymous}", self.tensors[key])
        return self.graph.tensor(key, self.tensors[key])

    def head(self, x: str) -> str:
        """[B, 80, T] -> [B, 320, T]."""
        axis = self.graph.constant([1], "/head/Constant", np.int64)
        x = self.node("Unsqueeze", [x, axis], "/head/Unsqueeze")
        x = self.node("Relu", [self.conv(x, "head.conv1")], "/head/Relu")
        for stage, num_blocks in enumerate(self.config.head_blocks):
            for block in range(num_blocks):
                x = self._residual(x, f"head.layer{stage + 1}.{block}", 1 if block else 2)
        x = self.node("Relu", [self.conv(x, "head.conv2", stride=2)], "/head/Relu_1")
        channels = self.tensors["xvector.tdnn.linear.weight"].shape[1]
        shape = self.graph.constant([0, channels, -1], "/head/Constant_1", np.int64)
        return self.node("Reshape", [x, shape], "/head/Reshape")

    def _residual(self, x: str, module: str, stride: int) -> str:
        path = _path(module)
        y = self.node("Relu", [self.conv(x, f"{module}.conv1", stride=stride)], f"{path}/Relu")
        y = self.conv(y, f"{module}.conv2")
        if f"{module}.shortcut.0.weight" in self.tensors:
            x = self.conv(x, f"{module}.shortcut.0", stride=stride)
        return self.node("Relu", [self.node("Add", [y, x], f"{path}/Add")], f"{path}/Relu_1")

    def dense_layer(self, x: str, block: int, layer: int) -> str:
        """Appends `growth` channels, gated by the context of each segment."""
        module = f"xvector.block{block + 1}.tdnnd{layer + 1}"
        cam, path = f"{module}.cam_layer", f"{_path(module)}/cam_layer"
        y = self.conv(self.norm_relu(x, f"{module}.nonlinear1"), f"{module}.linear1")
        y = self.relu(y, f"{module}.nonlinear2.relu")
        local = self.conv(y, f"{cam}.linear_local", dilation=self.config.dilations[block])
        context = self._context(y, path)
        hidden = self.relu(self.conv(context, f"{cam}.linear1"), f"{cam}.relu")
        gate = self.node(
            "Sigmoid", [self.conv(hidden, f"{cam}.linear2")], f"{path}/sigmoid/Sigmoid"
        )
        y = self.node("Mul", [local, gate], f"{path}/Mul_1")
        return self.node("Concat", [x, y], f"/xvector/block{block + 1}/Concat_{layer}", axis=1)

    def _context(self, x: str, path: str) -> str:
        """Mean over time plus the mean of each frame's segment: [B, D, T] -> [B, D, T]."""
        length, integers = self.config.segment_frames, np.int64
        constant = lambda value, name: self.graph.constant(value, f"{path}/{name}", integers)
        mean = self.node("ReduceMean", [x], f"{path}/ReduceMean", axes=[-1], keepdims=1)
        pooled = self.node(
            "AveragePool",
            [x],
            f"{path}/AveragePool",
            kernel_shape=[length],
            strides=[length],
            pads=[0, 0],
            ceil_mode=1,
            count_include_pad=1,
        )
        pooled = self.node("Unsqueeze", [pooled, constant([-1], "Constant")], f"{path}/Unsqueeze")
        spread = constant([1, 1, 1, length], "Constant_1")
        pooled = self.node("Expand", [pooled, spread], f"{path}/Expand")
        flat = constant([0, 0, -1], "Constant_2")
        pooled = self.node("Reshape", [pooled, flat], f"{path}/Reshape")
        shape = self.node("Shape", [x], f"{path}/Shape")
        last = self.node("Gather", [shape, constant([2], "Constant_3")], f"{path}/Gather", axis=0)
        ends = [constant([0], "Constant_4"), last, constant([2], "Constant_5")]
        pooled = self.node("Slice", [pooled, *ends], f"{path}/Slice")
        return self.node("Add", [mean, pooled], f"{path}/Add")

    def tail(self, x: str) -> None:
        """Mean and unbiased deviation, the embedding, its norm; the output is `output`."""
        path = "/xvector/stats"
        mean = self.node("ReduceMean", [x], f"{path}/ReduceMean", axes=[-1], keepdims=1)
        centred = self.node("Sub", [x, mean], f"{path}/Sub")
        square = self.node("Mul", [centred, centred], f"{path}/Mul")
        total = self.node(
            "ReduceSum",
            [square, self.graph.constant([-1], f"{path}/Constant", np.int64)],
            f"{path}/ReduceSum",
            keepdims=1,
        )
        shape = self.node("Shape", [x], f"{path}/Shape")
        two = self.graph.constant([2], f"{path}/Constant_1", np.int64)
        count = self.node("Gather", [shape, two], f"{path}/Gather", axis=0)
        count = self.node("Cast", [count], f"{path}/Cast", to=1)
        one = self.graph.constant([1.0], f"{path}/Constant_2", np.float32)
        fewer = self.node("Sub", [count, one], f"{path}/Sub_1")
        deviation = self.node(
            "Sqrt", [self.node("Div", [total, fewer], f"{path}/Div")], f"{path}/Sqrt"
        )
        pooled = self.node("Concat", [mean, deviation], f"{path}/Concat", axis=1)
        x = self.conv(pooled, "xvector.dense.linear")
        axis = self.graph.constant([2], "/xvector/dense/Constant_1", np.int64)
        x = self.node("Squeeze", [x, axis], "/xvector/dense/Squeeze")
        self.norm(x, PLAIN_NORM, outputs=["output"])


def _path(module: str) -> str:
    """`head.layer1.0.conv1` -> `/head/layer1/layer1.0/conv1`, the way a tracer writes it."""
    parts = module.split(".")
    words = [f"{parts[i - 1]}.{part}" if part.isdigit() else part for i, part in enumerate(parts)]
    return "/" + "/".join(words)


def _norm_after(module: str, config: SpeakerEncoderConfig) -> str:
    """The norm that follows a convolution upstream, or ""."""
    last = f"xvector.transit{len(config.num_layers)}.linear"
    if module == last:
        return "xvector.out_nonlinear.batchnorm"
    for pattern, norm in NORM_AFTER.items():
        if re.fullmatch(pattern, module):
            return re.sub(pattern, norm, module)
    return ""
