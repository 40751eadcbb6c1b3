"""Bundles: what is written comes back, and damage is named before anything is used."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from cosyjax import cli
from cosyjax.convert import mapping
from cosyjax.convert.official import read_official
from cosyjax.errors import InputError
from cosyjax.infer.bundle import Bundle, load_bundle, save_bundle
from cosyjax.infer.bundle_config import BundleConfig, generation
from cosyjax.infer.modules import MODULES
from cosyjax.infer.voice import Voice, load_voice
from cosyjax.io import files
from tests.tools.official_folder import TRANSCRIPT, write_official_folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("source") / "official"
    write_official_folder(folder)
    return read_official(folder)


@pytest.fixture(scope="module")
def untouched(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    save_bundle(bundle, folder)
    return folder


@pytest.fixture
def folder(untouched, tmp_path):
    shutil.copytree(untouched, tmp_path / "bundle")
    return tmp_path / "bundle"


def rewrite(path, change):
    arrays, metadata = files.load_arrays(path)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    change(arrays)
    files.save_arrays(path, arrays, metadata=metadata)


def test_everything_comes_back(bundle, untouched):
    again = load_bundle(untouched, verify=True)
    assert again.config == bundle.config and again.source == bundle.source
    np.testing.assert_array_equal(again.noise, bundle.noise)
    assert again.tokenizer.special_ids == bundle.tokenizer.special_ids
    for module in MODULES:
        ours, theirs = mapping.flatten(again.params[module]), mapping.flatten(bundle.params[module])
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_bundle_kept_in_half_the_bytes_is_read_as_float32(bundle, untouched, tmp_path):
    save_bundle(bundle, tmp_path / "half", store="float16")
    again = load_bundle(tmp_path / "half", ("flow",), verify=True).params["flow"]
    ours, theirs = mapping.flatten(again), mapping.flatten(bundle.params["flow"])
    for name, array in ours.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, theirs[name], rtol=2.0**-11, atol=3e-8)
    whole, half = (path / "flow.safetensors" for path in (untouched, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size


def test_the_layout_is_the_one_that_hubs_expect(untouched):
    names = {path.relative_to(untouched).as_posix() for path in untouched.rglob("*")}
    assert {f"{module}.safetensors" for module in MODULES} <= names
    assert {"config.json", "generation_config.json", "README.md", "SHA256SUMS"} <= names
    assert {"tokenizer/tokenizer.json", "voices", "noise.safetensors"} <= names
    config = json.loads((untouched / "config.json").read_text())
    assert config["model_type"] == "cosyjax" and "TextSpeechLM" in config["architectures"]
    card = (untouched / "README.md").read_text()
    assert "license: apache-2.0" in card and "consent" in card and "Out of scope" in card
    generation = json.loads((untouched / "generation_config.json").read_text())
    assert generation["sampling"]["top_k"] == 25
    assert generation["max_tokens_per_text_token"] == 20


def test_only_the_modules_asked_for_are_mapped(untouched):
    assert set(load_bundle(untouched, modules=("vocoder",)).params) == {"vocoder"}
    with pytest.raises(InputError, match="no module 'vocodr'; did you mean 'vocoder'"):
        load_bundle(untouched, modules=("vocodr",))


def test_voices_are_read_when_asked_for(folder):
    (folder / "voices" / "broken.safetensors").write_bytes(b"x")
    voices = load_bundle(folder, modules=()).voices
    assert sorted(voices) == ["broken", "my/voice", "中文女"]
    assert isinstance(voices["my/voice"], Voice)
    with pytest.raises(InputError, match="broken.safetensors"):
        voices["broken"]
    assert "absent" not in voices


def test_a_voice_file_comes_back(bundle, untouched):
    voice = bundle.voices["my/voice"]
    again = load_voice(untouched / "voices" / "my%2Fvoice.safetensors")
    assert again.prompt_text_tokens == voice.prompt_text_tokens
    assert again.prompt_text == TRANSCRIPT
    np.testing.assert_array_equal(again.prompt_mel, voice.prompt_mel)


def test_the_default_voice_is_the_one_that_is_named_or_else_the_first(bundle, tmp_path):
    assert bundle.default_voice == "my/voice"
    config = dataclasses.replace(bundle.config, default_voice="中文女")
    named = dataclasses.replace(bundle, config=config, params={})
    save_bundle(named, tmp_path / "out")
    assert load_bundle(tmp_path / "out", modules=()).default_voice == "中文女"
    left = {"my/voice": bundle.voices["my/voice"]}
    assert dataclasses.replace(named, voices=left).default_voice == "my/voice"
    assert dataclasses.replace(named, voices={}).default_voice == ""


def test_an_official_folder_is_recognised(tmp_path):
    (tmp_path / "llm.pt").write_bytes(b"")
    with pytest.raises(InputError, match="official model folder: run `cosyjax convert"):
        load_bundle(tmp_path)
    with pytest.raises(InputError, match="no bundle there"):
        load_bundle(tmp_path / "absent")


def test_a_changed_config_names_what_does_not_fit(folder):
    config = json.loads((folder / "config.json").read_text())
    config["speech_tokenizer"]["mlp_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"misshapen layers_0.mlp_in.kernel: \(64, 64\), needed"):
        load_bundle(folder, modules=("speech_tokenizer",))


def test_an_unknown_key_in_the_config_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    config["flow"]["mask_chnk"] = 50
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="did you mean 'mask_chunk'"):
        load_bundle(folder, modules=())


@pytest.mark.parametrize("changed", ["missing", "unexpected", "misshapen"])
def test_every_parameter_that_does_not_fit_is_named(folder, changed):
    def change(arrays):
        if changed == "missing":
            del arrays["proj_down.bias"]
        elif changed == "unexpected":
            arrays["surplus"] = np.zeros(2, np.float32)
        else:
            arrays["proj_down.bias"] = np.zeros(3, np.float32)

    rewrite(folder / "speech_tokenizer.safetensors", change)
    with pytest.raises(InputError, match=f"{changed} (proj_down.bias|surplus)"):
        load_bundle(folder, modules=("speech_tokenizer",))


def test_swapped_files_are_recognised(folder):
    shutil.copy(folder / "vocoder.safetensors", folder / "flow.safetensors")
    with pytest.raises(InputError, match="flow.safetensors: holds 'vocoder'"):
        load_bundle(folder)


def test_truncated_and_missing_files_end_with_code_2(folder, tmp_path, capsys):
    path = folder / "flow.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    for word in ("truncated", "no such file"):
        assert cli.main(["export", str(folder), str(tmp_path / "out"), "-q"]) == 2
        said = capsys.readouterr().err
        assert "flow.safetensors" in said and word in said and "Traceback" not in said
        path.unlink(missing_ok=True)
    assert not (tmp_path / "out").exists()


def test_damage_within_a_file_is_found_by_its_checksum(folder):
    path = folder / "flow.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_bundle(folder)
    with pytest.raises(InputError, match="flow.safetensors differs"):
        load_bundle(folder, verify=True)


def test_parameters_are_checked_before_anything_is_written(bundle, tmp_path):
    params = dict(bundle.params) | {"vocoder": bundle.params["flow"]}
    with pytest.raises(InputError, match="vocoder: .* parameters do not fit"):
        save_bundle(dataclasses.replace(bundle, params=params), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_newer_format_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    with pytest.raises(InputError, match="update cosyjax"):
        load_bundle(folder, modules=())


def test_how_a_bundle_speaks_can_be_set_and_what_it_is_cannot():
    config = generation(BundleConfig(), ["sampling.top_k=7", "max_tokens_per_text_token=4.0"])
    assert (config.sampling.top_k, config.max_tokens_per_text_token) == (7, 4.0)
    with pytest.raises(InputError, match="lm.num_layers.*cannot be set"):
        generation(BundleConfig(), ["lm.num_layers=3"])
    with pytest.raises(InputError, match="top_p"):
        generation(BundleConfig(), ["sampling.top_q=0.5"])
