"""A Qwen2 text checkpoint as the start of the language model."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest

from cosyjax.convert import names_lm, qwen2
from cosyjax.convert.mapping import flatten
from cosyjax.errors import InputError
from cosyjax.io.files import save_arrays
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig, init_params
from cosyjax.ops.interleave import Layout

TINY = TextSpeechLMConfig(2, 16, 4, 2, 4, 20, text_vocab_size=30, codebook_size=27)
HF = {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "vocab_size": 30,
}


def tensors(seed=0):
    stream, made = np.random.default_rng(seed), {}
    tree = jax.eval_shape(lambda key: init_params(TINY, key), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
    for rule in names_lm.rules(TINY):
        if rule.theirs.startswith(qwen2.PREFIX):
            shape = shapes[rule.ours][::-1] if rule.layout == "dense" else shapes[rule.ours]
            name = rule.theirs.removeprefix(qwen2.PREFIX)
            made[name] = stream.standard_normal(shape).astype(np.float32)
    return made


def write(folder, arrays, **changes):
    (folder / "config.json").write_text(json.dumps(HF | changes))
    save_arrays(folder / "model.safetensors", arrays)
    return folder


def test_blocks_and_the_text_table_come_from_the_checkpoint(tmp_path):
    arrays = tensors()
    names = [name for name in arrays if name.startswith("model.layers.0")]
    assert "model.layers.0.self_attn.q_proj.weight" in names and len(names) == 12
    folder = write(tmp_path, arrays)
    assert qwen2.is_qwen2(folder)
    tree = qwen2.read_qwen2(folder, TINY)
    assert set(tree) == {"backbone", "text_embedding"}
    kernel = tree["backbone"]["layers_1"]["mlp"]["down"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["model.layers.1.mlp.down_proj.weight"].T)
    table = tree["text_embedding"]["embedding"]
    np.testing.assert_array_equal(table, arrays["model.embed_tokens.weight"])


def test_a_head_of_its_own_is_left_out_and_bfloat16_becomes_float32(tmp_path):
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors().items()}
    arrays["lm_head.weight"] = np.ones((30, 16), ml_dtypes.bfloat16)
    tree = qwen2.read_qwen2(write(tmp_path, arrays, tie_word_embeddings=False), TINY)
    assert set(tree) == {"backbone", "text_embedding"}
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}


def test_missing_rows_are_drawn_and_surplus_rows_refused(tmp_path):
    arrays = tensors()
    folder = write(tmp_path, arrays)
    more = qwen2.read_qwen2(folder, dataclasses.replace(TINY, text_vocab_size=530))
    table = more["text_embedding"]["embedding"]
    np.testing.assert_array_equal(table[:30], arrays["model.embed_tokens.weight"])
    assert table.shape == (530, 16) and abs(np.std(table[30:]) / np.std(table[:30]) - 1) < 0.1
    with pytest.raises(InputError, match="30 rows, text_vocab_size=29"):
        qwen2.read_qwen2(folder, dataclasses.replace(TINY, text_vocab_size=29))


def test_several_files_and_their_index_are_one_checkpoint(tmp_path):
    arrays = tensors()
    wanted = qwen2.read_qwen2(write(tmp_path, arrays), TINY)
    (tmp_path / "model.safetensors").unlink()
    index = {}
    for number, half in enumerate((sorted(arrays)[::2], sorted(arrays)[1::2])):
        name = f"model-{number}.safetensors"
        save_arrays(tmp_path / name, {key: arrays[key] for key in half})
        index |= dict.fromkeys(half, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    jax.tree.map(np.testing.assert_array_equal, qwen2.read_qwen2(tmp_path, TINY), wanted)


def test_sizes_and_keys_that_do_not_fit_are_named(tmp_path):
    arrays = tensors()
    folder = write(tmp_path, arrays, num_attention_heads=8)
    with pytest.raises(InputError, match="num_heads=4, the checkpoint has 8"):
        qwen2.read_qwen2(folder, TINY)
    arrays.pop("model.norm.weight")
    with pytest.raises(InputError, match="missing model.norm.weight"):
        qwen2.read_qwen2(write(tmp_path, arrays), TINY)


@pytest.mark.slow
def test_hidden_states_equal_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    import torch

    sizes = {key: value for key, value in HF.items() if key != "model_type"}
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    tree = qwen2.read_qwen2(tmp_path, TINY)
    fresh = jax.jit(lambda: init_params(TINY, jax.random.key(0)))()
    params = jax.device_get(fresh) | tree
    ids = np.arange(12, dtype=np.int32).reshape(2, 6)
    layout = Layout(ids, np.ones_like(ids), ids, np.array([6, 6], np.int32))
    hidden = jax.jit(lambda *args: TextSpeechLM(TINY).apply(*args, method="hidden"))
    got = hidden({"params": params}, layout)
    with torch.no_grad():
        wanted = model.model(torch.from_numpy(ids.astype(np.int64))).last_hidden_state.numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
