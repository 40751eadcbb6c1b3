"""ONNX files without an ONNX runtime: read tensors and nodes, or build a graph and save it.

The only place that imports the `onnx` package (inside functions: it comes with the extra
`convert`).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax.errors import InputError

OPSET = 17
IR_VERSION = 8  # what onnxruntime 1.14 and newer read
MAX_BYTES = 2**31 - 2**20  # a protobuf message holds less than 2 GiB


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation; `attributes` holds numbers, strings, lists of them and numpy tensors."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Graph:
    """What a model file holds.

    `tensors` maps names to arrays: initializers, Constant nodes, and stored tensors behind an
    Identity or Transpose. `nodes` is in the order of execution, Constant nodes left out; `inputs`
    leaves out initializers.
    """

    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def consumers(self, tensor: str) -> Iterator[tuple[Node, int]]:
        """Yields (node, input position) for each use of a tensor."""
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name == tensor:
                    yield node, position

    def weights_of(self, node: Node) -> dict[int, np.ndarray]:
        """The stored tensors among a node's inputs, by input position."""
        return {i: self.tensors[n] for i, n in enumerate(node.inputs) if n in self.tensors}


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Reads an ONNX model file.

    Raises:
      InputError: absent, unreadable, truncated, or not an ONNX model.
    """
    onnx = _onnx()
    path = Path(path)
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf's DecodeError, or onnx's own on missing external data
        raise InputError(f"{path}: not an ONNX model, or truncated ({error})") from error
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX model: it holds no operation")
    try:
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        nodes = [_read_node(onnx, node) for node in model.graph.node]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged ONNX model: {error}") from error
    for node in nodes:
        value = _folded(node, tensors)
        if value is not None:
            tensors[node.outputs[0]] = value
    return Graph(
        nodes=tuple(node for node in nodes if node.op != "Constant"),
        tensors=tensors,
        inputs=tuple(i.name for i in model.graph.input if i.name not in tensors),
        outputs=tuple(o.name for o in model.graph.output),
    )


def _read_node(onnx: Any, node: Any) -> Node:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return Node(node.name, node.op_type, tuple(node.input), tuple(node.output), attributes)


def _folded(node: Node, tensors: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The value of a node that only renames or turns a stored tensor (equal ones are shared)."""
    if node.op == "Constant":
        key, value = next(iter(node.attributes.items()))
        return np.asarray(value, np.float32 if key in ("value_float", "value_floats") else None)
    if node.op not in ("Identity", "Transpose") or node.inputs[0] not in tensors:
        return None
    value = tensors[node.inputs[0]]
    return value if node.op == "Identity" else value.transpose(node.attributes.get("perm"))


class GraphBuilder:
    """Collects initializers and nodes, then writes one self-contained model file."""

    def __init__(self, name: str = "main_graph") -> None:
        self.name = name
        self._initializers: dict[str, np.ndarray] = {}
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, shape: Sequence[int | str | None], dtype: Any = np.float32) -> str:
        """Declares a model input; a string or None in `shape` is a free dimension."""
        self._inputs.append(_value_info(name, shape, dtype))
        return name

    def output(self, name: str, shape: Sequence[int | str | None], dtype: Any = np.float32) -> str:
        """Declares a model output: the name of a node's output."""
        self._outputs.append(_value_info(name, shape, dtype))
        return name

    def tensor(self, name: str, value: Any) -> str:
        """Adds an initializer and returns its name; the same name twice must be the same array."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        known = self._initializers.setdefault(name, array)
        assert known is array or np.array_equal(
            known, array
        ), f"two different initializers called {name}"
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str = "",
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Appends a node and returns its first output.

        Args:
          op: ONNX operator.
          inputs: tensor names; "" leaves out an optional input.
          name: node name; numbered by operator where empty.
          outputs: names of the outputs; `<name>_output_0` where absent, as torch writes it.
          **attributes: of the operator; None leaves one out.
        """
        name = name or f"{op}_{len(self._nodes)}"
        outputs = [f"{name}_output_0"] if outputs is None else list(outputs)
        given = {key: value for key, value in attributes.items() if value is not None}
        make = _onnx().helper.make_node
        self._nodes.append(make(op, list(inputs), outputs, name=name, **given))
        return outputs[0]

    def constant(self, value: Any, name: str = "", dtype: Any = None) -> str:
        """Appends a Constant node and returns its output."""
        tensor = _onnx().numpy_helper.from_array(np.asarray(value, dtype))
        return self.node("Constant", [], name=name, value=tensor)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model; `path` appears complete or not at all.

        Raises:
          InputError: more than 2 GB of weights, or the disk does not take it.
        """
        onnx = _onnx()
        total = sum(value.nbytes for value in self._initializers.values())
        if total > MAX_BYTES:
            raise InputError(f"{path}: {total / 2**30:.1f} GiB of weights; ONNX files hold < 2 GiB")
        stored = [onnx.numpy_helper.from_array(v, n) for n, v in self._initializers.items()]
        graph = onnx.helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, initializer=stored
        )
        opset = onnx.helper.make_opsetid("", OPSET)
        model = onnx.helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="cosyjax"
        )
        _write_whole(Path(path), model.SerializeToString())


def _value_info(name: str, shape: Sequence[int | str | None], dtype: Any) -> Any:
    helper = _onnx().helper
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))


def _write_whole(path: Path, content: bytes) -> None:
    """Writes beside `path`, then renames: a reader never meets half a file."""
    partial = None
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        if partial is not None and os.path.exists(partial):
            os.unlink(partial)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _onnx() -> Any:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise InputError(
            "ONNX files need the onnx package: pip install cosyjax[convert]"
        ) from error
    return onnx
