"""Official folder to bundle and back: equal bits, and every bad checkpoint named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyjax import cli
from cosyjax.convert import mapping
from cosyjax.convert import official as reading
from cosyjax.convert.export import export_bundle, official_tensors
from cosyjax.convert.official import SOURCES, read_official, resolve
from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle, save_bundle
from tests.tools.official_folder import FULL, TINY, random_tensors, save_torch
from tests.tools.toy_text import write_toy_tokenizer

TORCH_FILES = ("llm.pt", "flow.pt", "hift.pt")


def assert_same_trees(left, right):
    left, right = mapping.flatten(left), mapping.flatten(right)
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype == np.float32
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def edit(path, change):
    """Applies `change` to a state dict on disk."""
    tensors = torch.load(path, weights_only=True)
    changed = change(tensors)
    torch.save(tensors if changed is None else changed, path)


def load(path):
    return torch.load(path, weights_only=True)


def test_the_sizes_are_read_off_the_tensors(untouched):
    assert read_official(untouched).config == TINY


def test_the_round_trip_is_bit_equal(untouched, tmp_path):
    assert cli.main(["convert", str(untouched), str(tmp_path / "bundle"), "-q"]) == 0
    assert cli.main(["export", str(tmp_path / "bundle"), str(tmp_path / "back"), "-q"]) == 0
    for name in TORCH_FILES:
        before, after = load(untouched / name), load(tmp_path / "back" / name)
        assert list(before) == list(after)
        assert all(torch.equal(before[key], after[key]) for key in before)
    first, second = read_official(untouched), read_official(tmp_path / "back")
    for module in SOURCES:
        assert_same_trees(first.params[module], second.params[module])
    for name in ("vocab.json", "merges.txt"):
        path = f"{reading.BACKBONE}/{name}"
        assert (untouched / path).read_bytes() == (tmp_path / "back" / path).read_bytes()


def test_speakers_become_voices_and_come_back(untouched, tmp_path):
    save_bundle(read_official(untouched), tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert sorted(bundle.voices) == ["my/voice", "中文女"]
    assert not bundle.voices["中文女"].has_prompt and bundle.voices["my/voice"].has_prompt
    export_bundle(bundle, tmp_path / "back")
    before, after = load(untouched / "spk2info.pt"), load(tmp_path / "back" / "spk2info.pt")
    assert before.keys() == after.keys()
    for name, entry in before.items():
        assert entry.keys() == after[name].keys()
        for key, value in entry.items():
            assert after[name][key].dtype == value.dtype
            assert torch.equal(after[name][key], value), key


def test_half_precision_goes_back_as_it_came(official, tmp_path):
    edit(official / "llm.pt", lambda t: {k: v.bfloat16() for k, v in t.items()})
    edit(official / "flow.pt", lambda t: t | {"encoder_proj.bias": t["encoder_proj.bias"].half()})
    save_bundle(read_official(official), tmp_path / "bundle")
    export_bundle(load_bundle(tmp_path / "bundle"), tmp_path / "back")
    for name in ("llm.pt", "flow.pt"):
        before, after = load(official / name), load(tmp_path / "back" / name)
        assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_tied_head_is_stored_once_on_the_way_back(untouched, tmp_path):
    export_bundle(read_official(untouched), tmp_path / "back")
    tensors = load(tmp_path / "back" / "llm.pt")
    head, table = (tensors[f"llm.model.{n}.weight"] for n in ("lm_head", "model.embed_tokens"))
    assert head.data_ptr() == table.data_ptr()


def test_trainer_checkpoints_and_gan_prefixes_are_accepted(official, untouched):
    edit(official / "llm.pt", lambda t: t | {"epoch": 3, "step": 100})
    edit(
        official / "hift.pt",
        lambda t: {f"generator.{k}": v for k, v in t.items()}
        | {"discriminator.mpd.x": torch.ones(1), "epoch": 3, "step": 100},
    )
    changed, plain = read_official(official), read_official(untouched)
    for module in ("text_speech_lm", "vocoder"):
        assert_same_trees(changed.params[module], plain.params[module])


def test_a_speaker_encoder_may_come_unfolded_from_torch(official, tmp_path):
    unfolded = TINY.speaker_encoder.__class__(**{**vars(TINY.speaker_encoder), "folded": False})
    config = TINY.__class__(**{**vars(TINY), "speaker_encoder": unfolded})
    tensors = random_tensors("speaker_encoder", config, 7)
    tensors["head.bn1.num_batches_tracked"] = np.zeros((), np.int64)
    (official / "campplus.onnx").unlink()
    save_torch(official / "campplus.pt", tensors)
    bundle = read_official(official)
    assert bundle.config.speaker_encoder == unfolded
    back = official_tensors(bundle, "speaker_encoder")
    assert all(np.array_equal(tensors[key], value) for key, value in back.items())
    export_bundle(bundle, tmp_path / "back")  # as .onnx, the norms still apart
    again = read_official(tmp_path / "back")
    assert_same_trees(bundle.params["speaker_encoder"], again.params["speaker_encoder"])


@pytest.mark.parametrize(
    ("name", "gone", "bent"),
    [
        ("llm.pt", "llm.model.model.norm.weight", "llm_decoder.bias"),
        ("flow.pt", "encoder.up_embed.out.0.bias", "encoder_proj.bias"),
        ("hift.pt", "source_downs.0.bias", "f0_predictor.classifier.bias"),
    ],
)
def test_every_key_that_does_not_fit_is_named(official, name, gone, bent):
    tensors = load(official / name)
    del tensors[gone]
    tensors[bent] = torch.zeros(3, 5)
    torch.save(tensors | {"surplus.weight": torch.ones(2)}, official / name)
    with pytest.raises(InputError) as caught:
        read_official(official)
    message = str(caught.value)
    assert f"missing {gone}" in message and "unexpected surplus.weight" in message
    assert f"misshapen {bent}: (3, 5), needed" in message and name in message


def test_a_file_under_anothers_name_is_recognised(official):
    shutil.copy(official / "llm.pt", official / "flow.pt")
    with pytest.raises(InputError, match="flow.pt: holds .* language model .llm.pt."):
        read_official(official)


def test_an_onnx_file_under_anothers_name_is_recognised(official):
    shutil.copy(official / "speech_tokenizer_v2.onnx", official / "campplus.onnx")
    with pytest.raises(InputError, match="campplus.onnx"):
        read_official(official)


@pytest.mark.parametrize("name", [n for s in SOURCES.values() for n in s.files[:1]])
def test_a_truncated_or_missing_file_ends_with_code_2_and_leaves_nothing(
    official, tmp_path, name, capsys
):
    path = official / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(2):
        assert cli.main(["convert", str(official), str(tmp_path / "bundle"), "-q"]) == 2
        said = capsys.readouterr().err
        assert name in said and "Traceback" not in said
        path.unlink(missing_ok=True)
    assert [p.name for p in tmp_path.iterdir()] == ["official"]


def test_a_head_that_is_not_tied_is_refused(official):
    edit(official / "llm.pt", lambda t: t | {"llm.model.lm_head.weight": torch.ones(512, 16)})
    with pytest.raises(InputError, match="lm_head.weight differs"):
        read_official(official)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llm.pt", "speech_embedding.weight"),
        ("llm.pt", "llm.model.model.layers.0.self_attn.q_proj.weight"),
        ("flow.pt", "input_embedding.weight"),
        ("flow.pt", "decoder.estimator.final_proj.weight"),
        ("hift.pt", "ups.0.parametrizations.weight.original1"),
        ("hift.pt", "conv_post.bias"),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_a_wrong_shape_where_sizes_are_read_is_an_error_too(official, name, key, shape):
    edit(official / name, lambda t: t | {key: torch.zeros(shape)})
    with pytest.raises(InputError, match=name):
        read_official(official)


def test_a_backbone_of_another_model_is_refused(official):
    path = official / reading.BACKBONE / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"hidden_size": 896}))
    with pytest.raises(InputError, match="hidden_size=896, but .* llm.pt say 16"):
        read_official(official)
    path.write_text(json.dumps(values | {"num_attention_heads": "four"}))
    with pytest.raises(InputError, match="num_attention_heads='four'; a number"):
        read_official(official)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(official):
    write_toy_tokenizer(official / reading.BACKBONE, 600)
    with pytest.raises(InputError, match="620 ids, .* 512 rows"):
        read_official(official)


def test_broken_speakers_are_named(official):
    torch.save({"anna": {"prompt_text": torch.ones(1, 3)}}, official / "spk2info.pt")
    with pytest.raises(InputError, match="speaker 'anna' has no embedding"):
        read_official(official)
    torch.save({"anna": {"embedding": torch.ones(1, 7)}}, official / "spk2info.pt")
    with pytest.raises(InputError, match="speaker 'anna'"):
        read_official(official)


def test_a_disk_that_fills_leaves_nothing(untouched, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert cli.main(["convert", str(untouched), str(tmp_path / "bundle"), "-q"]) == 2
    assert "bytes are needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_overrides_reach_what_tensors_do_not_tell(untouched):
    bundle = read_official(untouched, overrides=["flow.mask_chunk=50"])
    assert bundle.config.flow.mask_chunk == 50


def test_a_source_that_is_no_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder"):
        read_official(resolve(str(tmp_path / "absent")))


def test_a_hub_id_is_downloaded(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}

    def download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve("FunAudioLLM/CosyVoice2-0.5B") == tmp_path
    assert "llm.pt" in asked["patterns"] and asked["name"] == "FunAudioLLM/CosyVoice2-0.5B"


def test_a_misshapen_tensor_of_the_full_size_is_named_even_where_sizes_are_read():
    from cosyjax.convert.torch_files import StateDict

    sizes = reading._full_sizes("vocoder") | {"m_source.l_linear.weight": (1, 8)}
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in sizes.items()}
    path = Path("hift.pt")
    config = reading._config("vocoder", StateDict(tensors, {}), path, {}, ())
    assert config == FULL.vocoder
    with pytest.raises(InputError, match=r"misshapen m_source.l_linear.weight: \(1, 8\), needed"):
        reading._params("vocoder", StateDict(tensors, {}), config, path)


@pytest.mark.slow
def test_full_size_keys_and_shapes_are_those_of_the_official_files():
    from cosyjax.convert.parity.runner import manifest_keys
    from cosyjax.infer.modules import parameter_shapes

    for module, fixture in {
        "text_speech_lm": "llm_full",
        "flow": "flow_full",
        "vocoder": "hift_full",
        "speech_tokenizer": "s3tokenizer_full",
    }.items():
        config = FULL.of(module)
        wanted = {key: tuple(shape) for key, shape in manifest_keys(fixture)}
        ours = parameter_shapes(module, config)
        given = {
            rule.theirs: mapping._official_shape(ours[rule.ours], mapping.LAYOUTS[rule.layout])
            for rule in SOURCES[module].rules(config)
        }
        assert given == wanted
