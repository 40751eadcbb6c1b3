"""Bad input on the command line: a clear sentence, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.cli import main
from tests.conftest import tone


def write(path: Path, wav: np.ndarray, rate_hz: int = 24_000) -> Path:
    soundfile.write(path, wav, rate_hz)
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Runs the command, checks that it was refused, and returns what it said."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].strip() and "Traceback" not in said
    assert "cosyjax: error: " in said
    return said


@pytest.fixture()
def synth(capsys, tiny_bundle, tmp_path, monkeypatch, tiny_tts):
    from cosyjax.infer import synthesize

    monkeypatch.setattr(synthesize, "load", lambda folder, dtype=None: tiny_tts)

    def run(*words: object) -> str:
        said = refused(capsys, "synth", "--bundle", tiny_bundle, "-o", tmp_path / "o.wav", *words)
        assert not list(tmp_path.glob("*o.wav*")), "something was written"
        return said

    return run


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "nothing to speak"),
        ("?!... ——", "nothing to speak"),
        ("a " * 25_000, "50000 characters; at most 10000"),
    ],
)
def test_text_that_cannot_be_spoken(synth, text, words) -> None:
    assert words in synth(text)


def test_an_unknown_voice(synth) -> None:
    assert "did you mean 'my/voice'" in synth("Hi.", "--voice", "my/voise")


def test_a_prompt_without_its_transcript(synth, prompt_wav) -> None:
    assert "--prompt-text" in synth("Hi.", "--prompt-wav", prompt_wav)


@pytest.mark.parametrize(
    "wav, rate_hz, words",
    [
        (np.zeros(24_000, np.float32), 24_000, "silent"),
        (tone(0.1, 24_000), 24_000, "0.10 s long; a prompt is 0.5 to 30 s"),
        (tone(60, 16_000), 16_000, "60.00 s long"),
        (tone(2, 8_000), 8_000, "sampled at 8000 Hz"),
    ],
    ids=["silent", "0.1 s", "60 s", "8 kHz"],
)
def test_a_prompt_that_cannot_serve(synth, tmp_path, wav, rate_hz, words) -> None:
    prompt = write(tmp_path / "p.wav", wav, rate_hz)
    assert words in synth("Hi.", "--prompt-wav", prompt, "--prompt-text", "x")


def test_two_channels_that_cancel_are_silent(synth, tmp_path) -> None:
    left = tone(2, 24_000)
    prompt = write(tmp_path / "p.wav", np.stack([left, -left], axis=1))
    assert "silent" in synth("Hi.", "--prompt-wav", prompt, "--prompt-text", "x")


def test_two_channels_are_averaged(tiny_tts, tmp_path) -> None:
    left = tone(1, 24_000)
    stereo = write(tmp_path / "s.wav", np.stack([left, left], axis=1))
    mono = write(tmp_path / "m.wav", left)
    a, b = tiny_tts.clone(stereo, "x"), tiny_tts.clone(mono, "x")
    np.testing.assert_array_equal(a.speech_tokens, b.speech_tokens)
    np.testing.assert_allclose(a.prompt_mel, b.prompt_mel, atol=1e-5)


def test_a_prompt_that_is_not_audio(synth, tmp_path) -> None:
    fake = tmp_path / "fake.wav"
    fake.write_bytes(b"this is no audio" * 100)
    assert "fake.wav" in synth("Hi.", "--prompt-wav", fake, "--prompt-text", "x")
    assert "gone.wav" in synth("Hi.", "--prompt-wav", tmp_path / "gone.wav", "--prompt-text", "x")


def test_an_output_that_cannot_be_written(capsys, tiny_bundle, tmp_path) -> None:
    words = ("synth", "Hi.", "--bundle", tiny_bundle, "-o")
    assert "allowed: .wav, .flac, .ogg, .mp3" in refused(capsys, *words, tmp_path / "o.aac")
    assert "does not exist" in refused(capsys, *words, tmp_path / "no" / "o.wav")
    assert "is a folder" in refused(capsys, *words, _folder(tmp_path / "d.wav"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_missing_bundle(capsys, tmp_path) -> None:
    said = refused(capsys, "voices", "--bundle", tmp_path / "none")
    assert "cosyjax convert" in said


def test_a_cloned_voice_needs_a_transcript(capsys, prompt_wav, tmp_path, tiny_bundle) -> None:
    out = tmp_path / "v.safetensors"
    said = refused(capsys, "clone", prompt_wav, "-o", out, "--bundle", tiny_bundle)
    assert "transcript is missing" in said and not out.exists()


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert "did you mean 'synth'" in refused(capsys, "sinth")


def test_an_unknown_bench_case_and_dtype(capsys, tiny_bundle, tmp_path) -> None:
    assert "did you mean 'lm_decode'" in refused(capsys, "bench", "lm_decod")
    words = ("synth", "Hi.", "--bundle", tiny_bundle, "-o", tmp_path / "o.wav")
    assert "bfloat16" in refused(capsys, *words, "--dtype", "bfloat61")


def test_parity_of_a_folder_without_fixtures(capsys, tmp_path) -> None:
    assert "no fixtures" in refused(capsys, "parity", tmp_path)
