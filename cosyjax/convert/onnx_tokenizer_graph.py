"""`speech_tokenizer_v2.onnx`: a runnable graph from official tensors.

Node paths and tensor names follow the released file, so that other loaders of it, which know some
anonymous names by heart, read this one too. Only weights are initializers; every other number is
a Constant node.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cosyjax.convert.names_tokenizer import PROJECT, config_from_shapes, rules
from cosyjax.convert.onnx_graph import GraphBuilder
from cosyjax.errors import InputError
from cosyjax.layers.fsmn import ATTENTION_NORM_EPSILON, MLP_NORM_EPSILON
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig

Tensors = Mapping[str, np.ndarray]

FIRST_CONV_NAME = 2216  # onnx::Conv_2216 .. 2219: weight, bias, weight, bias
PROJECTION_NAME = "onnx::MatMul_2536"
FIRST_DENSE_NAME = 2537  # of the blocks; any number that is not taken
MASKED = -1e10  # what the official graph adds to scores of padding


def write_tokenizer(path: str | os.PathLike[str], tensors: Tensors) -> None:
    """Writes the graph: mel [B, M, F] float32 and lengths [B] int32 to tokens [B, T] int32.

    Args:
      path: file to write; appears complete or not at all.
      tensors: {official key: float32 array}, the sizes are taken from their shapes.

    Raises:
      InputError: a tensor is missing, or the disk does not take the file.
    """
    config = config_from_shapes({key: value.shape for key, value in tensors.items()})
    missing = sorted({rule.theirs for rule in rules(config)} - set(tensors))
    if missing:
        raise InputError(f"{path}: a speech tokenizer v2 needs {', '.join(missing[:8])}")
    writer = _Writer(config, tensors)
    writer.build()
    writer.graph.save(path)


class _Writer:
    """The graph under construction, and shorthands for what it is made of."""

    def __init__(self, config: SpeechTokenizerConfig, tensors: Tensors) -> None:
        self.config = config
        self.tensors = tensors
        self.graph = GraphBuilder()
        self.num_dense = 0

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.graph.node(kind, inputs, name, **attributes)

    def ints(self, *values: int) -> str:
        return self.graph.constant(np.asarray(values, np.int64))

    def number(self, value: float) -> str:
        return self.graph.constant(np.float32(value))

    def build(self) -> None:
        mel = self.graph.input("feats", ["B", self.config.num_mels, "F"])
        lengths = self.graph.input("feats_length", ["B"], np.int32)
        x, lengths = mel, self.op("Cast", lengths, to=7)  # int64
        for number in (1, 2):
            x, lengths = self.strided_conv(x, lengths, number)
        mask = self.mask(x, lengths)  # [B, 1, T]
        x = self.op("Transpose", x, perm=[0, 2, 1])
        cos, sin = self.rotary_tables(x)
        for i in range(self.config.num_layers):
            x = self.block(x, mask, (cos, sin), i)
        self.quantize(x)

    def positions(self, length: str) -> str:
        """Scalar int64 length -> 0 .. length - 1."""
        zero, one = (self.graph.constant(np.int64(n)) for n in (0, 1))
        return self.op("Range", zero, length, one)

    def mask(self, x: str, lengths: str) -> str:
        """[B, 1, T] True = valid, for x [B, D, T]."""
        size = self.op("Gather", self.op("Shape", x), self.graph.constant(np.int64(2)), axis=0)
        lengths = self.op("Unsqueeze", lengths, self.ints(1, 2))
        return self.op("Less", self.positions(size), lengths)

    def strided_conv(self, x: str, lengths: str, number: int) -> tuple[str, str]:
        x = self.op("Where", self.mask(x, lengths), x, self.number(0.0))
        first = FIRST_CONV_NAME + 2 * (number - 1)
        names = [
            self.graph.tensor(
                f"onnx::Conv_{first + i}", self.tensors[f"encoder.conv{number}.{role}"]
            )
            for i, role in enumerate(("weight", "bias"))
        ]
        path = f"/conv{number}/Conv"
        x = self.op("Conv", x, *names, name=path, kernel_shape=[3], strides=[2], pads=[1, 1])
        halved = self.op("Div", self.op("Add", lengths, self.ints(1)), self.ints(2))
        return self.gelu(x), halved

    def gelu(self, x: str) -> str:
        inner = self.op("Erf", self.op("Div", x, self.number(np.sqrt(2.0))))
        inner = self.op("Add", inner, self.number(1.0))
        return self.op("Mul", self.op("Mul", x, inner), self.number(0.5))

    def rotary_tables(self, x: str) -> tuple[str, str]:
        """cos and sin [T, 1, P] for x [B, T, D]; both halves of a head share their angles."""
        size = self.op("Gather", self.op("Shape", x), self.graph.constant(np.int64(1)), axis=0)
        positions = self.op("Cast", self.positions(size), to=1)
        positions = self.op("Unsqueeze", positions, self.ints(1, 2))
        half = self.config.embed_dim // self.config.num_heads // 2
        exponents = np.arange(half, dtype=np.float32) / np.float32(half)
        frequencies = 1.0 / np.power(np.float32(self.config.rope_theta), exponents)
        table = self.graph.constant(np.tile(frequencies, 2).astype(np.float32))
        angles = self.op("Mul", positions, table)
        return self.op("Cos", angles), self.op("Sin", angles)

    def block(self, x: str, mask: str, tables: tuple[str, str], i: int) -> str:
        path = f"/blocks.{i}"
        y = self.norm(x, f"{path}/attn_ln", ATTENTION_NORM_EPSILON)
        x = self.op("Add", x, self.attention(y, mask, tables, f"{path}/attn"))
        y = self.norm(x, f"{path}/mlp_ln", MLP_NORM_EPSILON)
        y = self.gelu(self.dense(y, f"{path}/mlp/mlp.0"))
        return self.op("Add", x, self.dense(y, f"{path}/mlp/mlp.2"))

    def weight(self, path: str, role: str) -> tuple[str, np.ndarray]:
        """The official name without its `encoder.`, and the tensor, of a module by node path."""
        name = path[1:].replace("/", ".").replace("mlp.mlp", "mlp") + f".{role}"
        return name, self.tensors[f"encoder.{name}"]

    def norm(self, x: str, path: str, epsilon: float) -> str:
        names = [self.graph.tensor(*self.weight(path, role)) for role in ("weight", "bias")]
        name = f"{path}/LayerNormalization"
        return self.op("LayerNormalization", x, *names, name=name, axis=-1, epsilon=epsilon)

    def dense(self, x: str, path: str, bias: bool = True) -> str:
        _, weight = self.weight(path, "weight")
        name = f"onnx::MatMul_{FIRST_DENSE_NAME + self.num_dense}"
        self.num_dense += 1
        y = self.op("MatMul", x, self.graph.tensor(name, weight.T), name=f"{path}/MatMul")
        if not bias:
            return y
        return self.op("Add", self.graph.tensor(*self.weight(path, "bias")), y, name=f"{path}/Add")

    def attention(self, x: str, mask: str, tables: tuple[str, str], path: str) -> str:
        heads, head_dim = self.config.num_heads, self.config.embed_dim // self.config.num_heads
        value = self.dense(x, f"{path}/value")
        split, scale = self.ints(0, 0, heads, head_dim), self.number(head_dim**-0.25)
        turned = []
        for name in ("query", "key"):
            y = self.op("Reshape", self.dense(x, f"{path}/{name}", name != "key"), split)
            turned.append(self.op("Mul", self.rotate(y, tables, head_dim), scale))
        query = self.op("Transpose", turned[0], perm=[0, 2, 1, 3])
        key = self.op("Transpose", turned[1], perm=[0, 2, 3, 1])
        hidden = self.op("Where", mask, self.number(0.0), self.number(MASKED))
        hidden = self.op("Unsqueeze", hidden, self.ints(1))
        scores = self.op("Add", self.op("MatMul", query, key), hidden)
        values = self.op("Transpose", self.op("Reshape", value, split), perm=[0, 2, 1, 3])
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        mixed = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", mixed, self.ints(0, 0, heads * head_dim))
        return self.op("Add", self.dense(mixed, f"{path}/out"), self.memory(value, mask, path))

    def rotate(self, x: str, tables: tuple[str, str], head_dim: int) -> str:
        half, end = head_dim // 2, np.iinfo(np.int64).max
        first = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(3))
        second = self.op("Slice", x, self.ints(half), self.ints(end), self.ints(3))
        crossed = self.op("Concat", self.op("Neg", second), first, axis=3)
        cos, sin = tables
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", crossed, sin))

    def memory(self, value: str, mask: str, path: str) -> str:
        value = self.op("Transpose", value, perm=[0, 2, 1])
        value = self.op("Where", mask, value, self.number(0.0))
        name, weight = self.weight(f"{path}/fsmn_block", "weight")
        width = weight.shape[2]
        y = self.op(
            "Conv",
            value,
            self.graph.tensor(name, weight),
            name=f"{path}/fsmn_block/Conv",
            kernel_shape=[width],
            pads=[width // 2, width // 2],
            group=weight.shape[0],
        )
        y = self.op("Where", mask, self.op("Add", y, value), self.number(0.0))
        return self.op("Transpose", y, perm=[0, 2, 1])

    def quantize(self, x: str) -> None:
        config, path = self.config, "/quantizer/project_in"
        weight = self.graph.tensor(PROJECTION_NAME, self.tensors[f"{PROJECT}.weight"].T)
        bias = self.graph.tensor("quantizer.project_in.bias", self.tensors[f"{PROJECT}.bias"])
        y = self.op("MatMul", x, weight, name=f"{path}/MatMul")
        y = self.op("Add", bias, y, name=f"{path}/Add")
        half = config.num_levels // 2
        y = self.op("Mul", self.op("Tanh", y), self.number(half * config.code_scale))
        digits = self.op("Add", self.op("Round", y), self.number(half))
        powers = config.num_levels ** np.arange(config.num_code_dims)
        digits = self.op("Mul", digits, self.graph.constant(powers.astype(np.float32)))
        total = self.op("ReduceSum", digits, self.ints(2), keepdims=0)
        tokens = self.graph.node("Cast", [total], "/quantizer/Cast", ["indices"], to=6)  # int32
        self.graph.output(tokens, ["B", "T"], np.int32)
