"""ONNX files: what is built reads back, and bad files are named."""

import numpy as np
import pytest

from cosyjax.convert import onnx_graph
from cosyjax.errors import InputError


def build(path, weight):
    builder = onnx_graph.GraphBuilder()
    x = builder.input("x", ["N", 2])
    y = builder.node("MatMul", [x, builder.tensor("w", weight)], "/layer/MatMul")
    y = builder.node("Add", [y, builder.constant([1.0, 2.0], dtype=np.float32)], outputs=["y"])
    builder.output(y, ["N", 2])
    builder.save(path)


def test_a_built_graph_reads_back_bit_equal(tmp_path):
    weight = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    build(tmp_path / "m.onnx", weight)
    graph = onnx_graph.read_graph(tmp_path / "m.onnx")
    assert graph.inputs == ("x",) and graph.outputs == ("y",)
    assert [node.op for node in graph.nodes] == ["MatMul", "Add"]
    np.testing.assert_array_equal(graph.tensors["w"], weight)
    np.testing.assert_array_equal(graph.weights_of(graph.nodes[1])[1], [1.0, 2.0])
    assert [(node.name, i) for node, i in graph.consumers("w")] == [("/layer/MatMul", 1)]


def test_a_built_graph_runs(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    build(tmp_path / "m.onnx", np.eye(2, dtype=np.float32))
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    (y,) = session.run(None, {"x": np.zeros((3, 2), np.float32)})
    np.testing.assert_array_equal(y, [[1.0, 2.0]] * 3)


def test_a_truncated_file_is_named(tmp_path):
    build(tmp_path / "m.onnx", np.eye(2, dtype=np.float32))
    whole = (tmp_path / "m.onnx").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        with pytest.raises(InputError, match="cut.onnx"):
            onnx_graph.read_graph(tmp_path / "cut.onnx")


def test_a_file_that_is_not_onnx_is_named(tmp_path):
    (tmp_path / "text.onnx").write_text("hello, this is no model\n" * 20)
    with pytest.raises(InputError, match="not an ONNX model"):
        onnx_graph.read_graph(tmp_path / "text.onnx")
    with pytest.raises(InputError, match="cannot be read"):
        onnx_graph.read_graph(tmp_path / "absent.onnx")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_graph.os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        build(tmp_path / "m.onnx", np.eye(2, dtype=np.float32))
    assert list(tmp_path.iterdir()) == []
