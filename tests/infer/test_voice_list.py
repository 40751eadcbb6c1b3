"""Voices from a list come into a bundle, all of them or none."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cosyjax.cli import main
from cosyjax.errors import InputError
from cosyjax.infer import speak
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.voice_list import read_voice_list
from tests.cli.test_bad_input import refused

ROWS = [
    {"name": "zoe", "path": "a.tar/in/zoe.wav", "text": "Room 2.", "lang": "en", "note": "Mine."},
    {"name": "anna", "path": "anna.wav", "text": "A tone."},
]


@pytest.fixture()
def voices(tmp_path: Path, prompt_wav: Path) -> Path:
    """A list beside a recording, and one in a shard."""
    (tmp_path / "anna.wav").write_bytes(prompt_wav.read_bytes())
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(prompt_wav, "in/zoe.wav")
    return write(tmp_path / "voices.jsonl", *ROWS)


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def words(voices: Path, base: Path, out: Path) -> list[str]:
    return ["bundle", str(out), "--base", str(base), "--voices", str(voices)]


def test_a_bundle_gets_the_voices_of_a_list(
    voices, tiny_bundle, tiny_tts, prompt_wav, tmp_path, capsys
) -> None:
    card = tmp_path / "card.md"
    card.write_text("# My model")
    out = tmp_path / "out"
    assert main([*words(voices, tiny_bundle, out), "--card", str(card), "--store", "float16"]) == 0
    made = load_bundle(out, modules=(), verify=True)
    assert sorted(made.voices) == ["anna", "zoe"] and made.default_voice == "zoe"
    assert (out / "README.md").read_text() == "# My model"
    zoe, cloned = made.voices["zoe"], tiny_tts.clone(prompt_wav, "Room 2.")
    assert (zoe.lang, zoe.note, zoe.prompt_text) == ("en", "Mine.", cloned.prompt_text)
    np.testing.assert_array_equal(zoe.speech_tokens, cloned.speech_tokens)
    np.testing.assert_array_equal(zoe.prompt_mel, cloned.prompt_mel)
    assert main(["voices", "--bundle", str(out)]) == 0
    assert [line.endswith("(default)") for line in capsys.readouterr().out.splitlines()[-2:]] == [
        False,
        True,
    ]


def test_a_voice_that_cannot_be_made_leaves_the_bundle_as_it_was(
    voices, tiny_bundle, tmp_path, capsys
) -> None:
    write(voices, *ROWS, {"name": "gone", "path": "gone.wav", "text": "Nothing."})
    said = refused(capsys, *words(voices, tiny_bundle, tmp_path / "out"))
    assert f"{voices}:3: " in said and "gone.wav" in said
    assert not (tmp_path / "out").exists()
    write(voices, {"name": "text", "path": "voices.jsonl", "text": "No audio."})
    assert f"{voices}:1: " in refused(capsys, *words(voices, tiny_bundle, tmp_path / "out"))


def test_paths_begin_in_the_folder_that_is_named(voices, tiny_bundle, tmp_path, capsys) -> None:
    inner = tmp_path / "lists"
    inner.mkdir()
    voices = voices.rename(inner / "voices.jsonl")
    said = refused(capsys, *words(voices, tiny_bundle, tmp_path / "out"))
    assert str(inner / "a.tar") in said
    recordings = ["--recordings", str(tmp_path)]
    assert main([*words(voices, tiny_bundle, tmp_path / "out"), *recordings]) == 0


@pytest.mark.parametrize(
    "row, said",
    [
        ("no object", "holds a str"),
        ({"name": "a", "path": "a.wav"}, "'text' is missing"),
        ({"name": "a", "path": " ", "text": "b"}, "'path' is missing"),
        ({"name": "a", "path": "a.wav", "text": "b", "notes": "c"}, "did you mean 'note'"),
        ({"name": 3, "path": "a.wav", "text": "b"}, "name=3"),
        (ROWS[0], "'zoe' is also that of"),
    ],
)
def test_a_row_that_says_too_little_is_named(tmp_path, row, said) -> None:
    with pytest.raises(InputError, match=said) as raised:
        read_voice_list(write(tmp_path / "v.jsonl", ROWS[0], row))
    assert str(tmp_path / "v.jsonl:2") in str(raised.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path) -> None:
    (tmp_path / "v.jsonl").write_text("\n{")
    with pytest.raises(InputError, match="v.jsonl:2: the line is not JSON"):
        read_voice_list(tmp_path / "v.jsonl")
    (tmp_path / "v.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no voice"):
        read_voice_list(tmp_path / "v.jsonl")
    with pytest.raises(InputError, match="gone.jsonl: No such file"):
        read_voice_list(tmp_path / "gone.jsonl")


def test_the_voices_of_the_shipped_model_are_listed() -> None:
    rows = read_voice_list(Path(__file__).parents[2] / "launch" / "mini" / "voices.jsonl")
    assert len(rows) >= 8 and rows[0].lang == "en"
    assert all(row.note and row.lang and "+" not in row.name for row in rows)


def test_a_mode_says_what_is_kept_of_a_recording(voices, tiny_bundle, tiny_tts, tmp_path) -> None:
    write(voices, ROWS[0] | {"mode": "sft"}, ROWS[1] | {"mode": "cross_lingual"})
    assert main(words(voices, tiny_bundle, tmp_path / "out")) == 0
    made = load_bundle(tmp_path / "out", modules=()).voices
    assert not made["zoe"].has_prompt and made["zoe"].note == "Mine."
    assert made["anna"].has_prompt and not made["anna"].prompt_text
    assert [speak.default_mode(made[name]) for name in ("zoe", "anna")] == ["sft", "cross_lingual"]
    with pytest.raises(InputError, match="mode='zero'.*zero_shot"):
        read_voice_list(write(voices, ROWS[0] | {"mode": "zero"}))
