"""The speaker encoder's ONNX file, and the table of its official names."""

import functools

import jax
import numpy as np
import pytest

from cosyjax.convert import names_speaker, onnx_speaker
from cosyjax.convert.mapping import export_tensors, flatten, import_tensors
from cosyjax.convert.onnx_graph import GraphBuilder, read_graph
from cosyjax.errors import InputError
from cosyjax.models import speaker_encoder
from cosyjax.models.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig

TINY = SpeakerEncoderConfig(
    num_mels=16,
    embed_dim=6,
    head_dim=4,
    init_dim=8,
    growth=4,
    bottleneck=6,
    num_layers=(2, 1),
    dilations=(1, 2),
)


def _official(folded):
    """A random model under official names, and its config."""
    params = jax.jit(lambda: speaker_encoder.init_params(TINY, jax.random.key(0)))()
    random = np.random.default_rng(1)
    shift = lambda x: x + 0.3 * np.abs(random.standard_normal(x.shape, np.float32)) * (x.ndim == 1)
    params, config = jax.tree.map(shift, params), TINY
    if folded:
        params, config = speaker_encoder.fold_batch_norm(params, config)
    return params, export_tensors(names_speaker.rules(config), params), config


@pytest.mark.parametrize("folded", [True, False])
def test_what_is_written_reads_back_bit_equal_and_runs_the_same(tmp_path, folded):
    onnxruntime = pytest.importorskip("onnxruntime")
    params, tensors, config = _official(folded)
    path = tmp_path / "campplus.onnx"
    onnx_speaker.write_campplus(path, tensors, config)
    back = onnx_speaker.read_campplus(path)
    assert back.keys() == tensors.keys()
    assert all(back[key].tobytes() == tensors[key].tobytes() for key in tensors)
    assert names_speaker.config_from_shapes({k: v.shape for k, v in back.items()}) == config
    features = np.random.default_rng(2).standard_normal((2, 230, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = jax.jit(SpeakerEncoder(config).apply)({"params": params}, features)
    (got,) = session.run(None, {session.get_inputs()[0].name: features})
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_official_pattern_of_names_is_kept(golden, tmp_path):
    official = read_graph(golden / "campplus_small.onnx")
    tensors = onnx_speaker.read_campplus(golden / "campplus_small.onnx")
    config = names_speaker.config_from_shapes({k: v.shape for k, v in tensors.items()})
    onnx_speaker.write_campplus(tmp_path / "again.onnx", tensors, config)
    again = read_graph(tmp_path / "again.onnx")
    weighted = lambda graph: {
        (node.name, node.op, tuple(v.shape for v in graph.weights_of(node).values()))
        for node in graph.nodes
        if node.op in onnx_speaker.SUFFIXES
    }
    assert weighted(again) == weighted(official)
    assert (again.inputs, again.outputs) == (official.inputs, official.outputs)


def test_folding_agrees_with_the_exporter(golden):
    from safetensors.numpy import load_file

    stored = load_file(golden / "campplus_small.safetensors")
    layer = "xvector.block1.tdnnd1"
    read = onnx_speaker.read_campplus(golden / "campplus_small.onnx")
    w = {k.removeprefix(f"w.{layer}."): v for k, v in stored.items() if k.startswith(f"w.{layer}.")}
    norm = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    node = {
        "kernel": w["linear1.weight"].transpose(2, 1, 0),
        "norm": {ours: w[f"nonlinear2.batchnorm.{theirs}"] for ours, theirs in norm.items()},
    }
    folded = speaker_encoder._fold_pair(node)
    np.testing.assert_allclose(
        folded["kernel"].transpose(2, 1, 0), read[f"{layer}.linear1.weight"], atol=1e-6
    )
    np.testing.assert_allclose(folded["bias"], read[f"{layer}.linear1.bias"], atol=1e-6)


@pytest.mark.parametrize("folded", [True, False])
def test_names_lead_there_and_back_bit_equal(folded):
    params, tensors, config = _official(folded)
    init = functools.partial(speaker_encoder.init_params, TINY)
    needed = {k: v.shape for k, v in flatten(params).items()}
    back = flatten(import_tensors(names_speaker.rules(config), tensors, needed))
    assert all(np.array_equal(back[key], value) for key, value in flatten(params).items())
    assert folded or needed == {
        k: v.shape for k, v in flatten(jax.eval_shape(init, jax.random.key(0))).items()
    }


def test_the_table_covers_the_official_manifest():
    from cosyjax.convert.parity import runner

    shapes = {k: tuple(shape) for k, shape in runner.manifest_keys("fbank_campplus")}
    shapes = {k: v for k, v in shapes.items() if not k.endswith(names_speaker.IGNORED_SUFFIX)}
    config = names_speaker.config_from_shapes(shapes)
    assert config == SpeakerEncoderConfig()
    assert {rule.theirs for rule in names_speaker.rules(config)} == set(shapes)


def test_another_network_is_refused(tmp_path):
    graph = GraphBuilder()
    x = graph.input("x", (1, 3))
    graph.node("Relu", [x], outputs=["y"])
    graph.output("y", (1, 3))
    graph.save(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not a CAM"):
        onnx_speaker.read_campplus(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not a CAM"):
        names_speaker.config_from_shapes({"encoder.weight": (3, 4)})
