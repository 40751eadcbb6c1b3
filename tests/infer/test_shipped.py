"""The model that comes with the package speaks, offline; no recogniser is needed to hear that."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import soundfile

import cosyjax
from cosyjax.cli import main
from cosyjax.infer import chunks, shipped, speak, synthesize
from cosyjax.infer.synthesize import Speech, Synthesizer
from cosyjax.io import files

MAX_BYTES = 40_000_000
RATE_HZ = 24_000
FRAME = RATE_HZ // 50
TEXT, OTHER = "The river is cold today.", "We walked home at night."
NUM_STEPS = 4  # of the flow; a test need not sound its best
# Read speech has 11 to 20 characters a second, and a short sentence begins and ends with silence.
FASTEST, SLOWEST, PAUSES_S = 25.0, 8.0, 1.0


def forbidden(*args: object, **options: object) -> None:
    raise AssertionError("the network was touched")


@pytest.fixture(scope="module")
def tts() -> Iterator[Synthesizer]:
    """The shipped model as `cosyjax.load()` gives it, in a process that may not use the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(shipped.VARIABLE, raising=False)
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, forbidden)
        patch.setattr(socket, "getaddrinfo", forbidden)
        loaded = cosyjax.load(dtype="float32")
        loaded.config = dataclasses.replace(loaded.config, num_steps=NUM_STEPS)
        yield loaded


@pytest.fixture(scope="module")
def speech(tts) -> Speech:
    """A sentence in the default voice."""
    return tts.synthesize(TEXT)


def levels_db(wav: np.ndarray) -> np.ndarray:
    """Level of each 20 ms."""
    frames = wav[: len(wav) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.mean(frames.astype(np.float64) ** 2, axis=1) + 1e-12)


def test_the_folder_is_small_and_whole() -> None:
    folder = shipped.shipped_folder()
    files.verify_checksums(folder)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_BYTES


def test_the_card_tells_data_licences_and_limits() -> None:
    card = (shipped.shipped_folder() / "README.md").read_text(encoding="utf-8")
    for word in ("Apache-2.0", "hours", "steps", "device-hours", "Limits", "consent"):
        assert word in card, word
    assert "to be filled" not in card


def test_eight_voices_and_more_are_built_in(tts, capsys) -> None:
    voices = {name: tts.voice(name) for name in tts.voices()}
    assert len(voices) >= 8
    for name, voice in voices.items():
        assert np.any(voice.speaker_embedding) and voice.note and voice.lang, name
    assert voices[tts.bundle.default_voice].lang == "en"
    assert main(["voices"]) == 0
    said = capsys.readouterr().out
    for name in voices:
        assert any(line.startswith(f"{name} ") for line in said.splitlines()), name
    assert sum("(default)" in line for line in said.splitlines()) == 1


def test_a_sentence_lasts_as_long_as_a_person_needs_for_it(speech) -> None:
    assert len(TEXT) / FASTEST < speech.seconds < len(TEXT) / SLOWEST + PAUSES_S


def test_it_is_neither_silent_nor_clipped(speech) -> None:
    wav = speech.wav
    assert np.all(np.isfinite(wav))
    assert -40 < 10 * np.log10(np.mean(wav.astype(np.float64) ** 2)) < -8
    assert np.mean(levels_db(wav) > -45) > 0.4, "most of it is silence"
    assert np.mean(np.abs(wav) > 0.98) < 1e-3, "it is clipped"


def test_its_level_rises_and_falls_with_syllables(speech) -> None:
    levels = levels_db(speech.wav)
    loud = levels[levels > np.max(levels) - 40]
    assert np.percentile(loud, 90) - np.percentile(loud, 10) > 10, "it hums"
    spectrum = np.abs(np.fft.rfft(speech.wav)) ** 2
    below = spectrum[: int(len(spectrum) * 4_000 / (RATE_HZ / 2))].sum()
    assert below / spectrum.sum() > 0.7, "it hisses"


def test_other_words_are_other_tokens(tts, speech) -> None:
    tokens = speech.speech_tokens[0]
    other = speak.text_to_tokens(
        tts.stages,
        np.asarray(tts.tokenizer.encode(OTHER), np.int32),
        tts.conditions(),
        jax.random.fold_in(jax.random.key(0), 0),
        tts.bundle.config.sampling,
        tts.config,
    )
    assert len(set(tokens.tolist())) > 10 and len(set(other.tolist())) > 10
    assert len(tokens) != len(other) or np.any(tokens != other)


def test_the_command_needs_nothing_but_a_text_and_says_the_same_again(
    tts, speech, tmp_path, monkeypatch
) -> None:
    asked = []
    monkeypatch.setattr(synthesize, "load", lambda *a, **k: asked.append(a) or tts)
    assert main(["synth", TEXT, "-o", str(tmp_path / "o.wav"), "-q"]) == 0
    wav, rate_hz = soundfile.read(tmp_path / "o.wav", dtype="float32")
    assert asked == [(shipped.shipped_folder(),)] and rate_hz == RATE_HZ
    np.testing.assert_allclose(wav, speech.wav, rtol=0, atol=1 / 32768)


def test_another_voice_says_the_same_tokens_another_way(tts, speech) -> None:
    default = tts.voice()
    # A prompt of about the same length needs no other program.
    apart = {
        name: abs(len(tts.voice(name).speech_tokens) - len(default.speech_tokens))
        for name in tts.voices()
        if name != tts.bundle.default_voice and tts.voice(name).lang == default.lang
    }
    other = tts.conditions(min(apart, key=lambda name: apart[name]))
    key = jax.random.fold_in(jax.random.key(0), 0)
    theirs = chunks.tokens_to_wav(
        tts.stages, speech.speech_tokens[0], other, key, tts.bundle.noise, config=tts.config
    )
    assert theirs.shape == speech.wav.shape
    assert np.std(theirs - speech.wav) > 0.1 * np.std(speech.wav)


@pytest.mark.slow
def test_a_voice_is_cloned_offline_and_speaks(tts, speech, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(synthesize, "load", lambda *a, **k: tts)
    speech.save(tmp_path / "it.wav")
    made = tmp_path / "it.safetensors"
    assert main(["clone", str(tmp_path / "it.wav"), "--text", TEXT, "-o", str(made)]) == 0
    voice = tts.voice(made)
    assert abs(len(voice.speech_tokens) / 25 - speech.seconds) < 0.1
    assert np.linalg.norm(voice.speaker_embedding) > 0
    assert len(tts.synthesize(OTHER, voice).wav) > RATE_HZ / 4
