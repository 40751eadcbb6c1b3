"""The tokenizer's ONNX file: round trip, runs, and is read whatever its anonymous names."""

import jax
import numpy as np
import pytest

from cosyjax.convert import names_tokenizer, onnx_graph
from cosyjax.convert.mapping import export_tensors, flatten, import_tensors
from cosyjax.convert.onnx_tokenizer import read_tokenizer
from cosyjax.convert.onnx_tokenizer_graph import write_tokenizer
from cosyjax.convert.parity.fixture import rebuild
from cosyjax.errors import InputError
from cosyjax.infer.tokenize_speech import tokenize_speech
from cosyjax.models.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig, init_params

CONFIG = SpeechTokenizerConfig(num_mels=6, embed_dim=128, num_heads=2, num_layers=2, mlp_dim=96)


@pytest.fixture(scope="module")
def tensors():
    abstract = jax.eval_shape(lambda key: init_params(CONFIG, key), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract)
    official = export_tensors(names_tokenizer.rules(CONFIG), zeros)
    return rebuild([[key, value.shape] for key, value in official.items()], seed=5, gain=1.2)


@pytest.fixture(scope="module")
def written(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "speech_tokenizer_v2.onnx"
    write_tokenizer(path, tensors)
    return path


def test_a_written_file_reads_back_bit_equal(tensors, written):
    back = read_tokenizer(written)
    assert set(back) == set(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_the_written_graph_gives_our_tokens(tensors, written):
    runtime = pytest.importorskip("onnxruntime")
    mel = np.random.default_rng(0).normal(size=(2, 6, 83)).astype(np.float32)
    lengths = np.asarray([83, 50], np.int32)
    session = runtime.InferenceSession(str(written))
    names = [value.name for value in session.get_inputs()]
    (theirs,) = session.run(None, dict(zip(names, (mel, lengths))))
    assert theirs.dtype == np.int32
    params = _params(tensors)
    ours, counts = tokenize_speech(SpeechTokenizer(CONFIG), params, mel.swapaxes(1, 2), lengths)
    for row, count in enumerate(counts):
        np.testing.assert_array_equal(theirs[row, :count], ours[row, :count])
    assert len(np.unique(ours)) > 10


def _params(tensors):
    abstract = jax.eval_shape(lambda key: init_params(CONFIG, key), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten(abstract).items()}
    return import_tensors(names_tokenizer.rules(CONFIG), tensors, shapes)


def test_other_anonymous_numbers_read_the_same(tensors, written, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(written))
    renamed = {t.name: f"onnx::X_{i}" for i, t in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    onnx.save(model, str(tmp_path / "other.onnx"))
    back = read_tokenizer(tmp_path / "other.onnx")
    assert set(back) == set(tensors)
    assert all(np.array_equal(back[key], value) for key, value in tensors.items())


def test_names_that_other_loaders_know_by_heart_are_used(written):
    graph = onnx_graph.read_graph(written)
    uses = {name: next(graph.consumers(name))[0].name for name in graph.tensors if "::" in name}
    assert uses["onnx::Conv_2216"] == uses["onnx::Conv_2217"] == "/conv1/Conv"
    assert uses["onnx::Conv_2218"] == uses["onnx::Conv_2219"] == "/conv2/Conv"
    assert uses["onnx::MatMul_2536"] == "/quantizer/project_in/MatMul"
    assert graph.inputs == ("feats", "feats_length")
    assert "/blocks.1/mlp/mlp.2/MatMul" in uses.values()


def test_a_layer_norm_written_as_a_chain_is_read(tensors, written, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(written))
    nodes = []
    for node in model.graph.node:
        if node.op_type != "LayerNormalization":
            nodes.append(node)
            continue
        x, scale, bias = node.input
        path = node.name.removesuffix("/LayerNormalization")
        make = onnx.helper.make_node
        nodes.append(make("Mul", [x, scale], [f"{path}/m"], name=f"{path}/Mul"))
        nodes.append(make("Add", [f"{path}/m", bias], list(node.output), name=f"{path}/Add_1"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(tmp_path / "chain.onnx"))
    back = read_tokenizer(tmp_path / "chain.onnx")
    assert all(np.array_equal(back[key], value) for key, value in tensors.items())


def test_a_missing_tensor_is_named_and_nothing_is_written(tensors, tmp_path):
    fewer = {key: value for key, value in tensors.items() if "1.attn.key" not in key}
    with pytest.raises(InputError, match="encoder.blocks.1.attn.key.weight"):
        write_tokenizer(tmp_path / "m.onnx", fewer)
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_refused(golden):
    with pytest.raises(InputError, match="not a speech tokenizer"):
        read_tokenizer(golden / "campplus_small.onnx")
