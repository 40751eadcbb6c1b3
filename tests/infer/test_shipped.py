"""The model that comes with the package speaks, offline; no recogniser is needed to hear that."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import cosyjax
from cosyjax.cli import main
from cosyjax.infer import shipped
from cosyjax.infer.synthesize import Speech, Synthesizer
from cosyjax.io import files

MAX_BYTES = 40_000_000
RATE_HZ = 24_000
FRAME = RATE_HZ // 50
SHORT, OTHER = "The river is cold today.", "We walked home from the old market."
TEXTS = {"short": SHORT, "other": OTHER}
# Read speech has 11 to 20 characters a second, and a short sentence begins and ends with silence.
FASTEST, SLOWEST, PAUSES_S = 25.0, 8.0, 1.0
pytestmark = pytest.mark.skipif(
    not (Path(str(shipped._assets())) / shipped.NAME).is_dir(), reason="a copy without its model"
)


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
        yield cosyjax.load(dtype="float32")


@pytest.fixture(scope="module")
def say(tts) -> Callable[..., Speech]:
    """Speaks a text once for all tests that ask for the same."""
    made: dict[tuple[str, str | None, int], Speech] = {}

    def speak(text: str, voice: str | None = None, take: int = 0) -> Speech:
        known = (text, voice, take)
        if known not in made:
            made[known] = tts.synthesize(TEXTS[text], voice)
        return made[known]

    return speak


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
        assert voice.has_prompt and voice.prompt_text and voice.note and voice.lang, name
    assert voices[tts.bundle.default_voice].lang == "en"
    assert main(["voices"]) == 0
    said = capsys.readouterr().out
    for name in voices:
        assert any(line.startswith(f"{name} ") for line in said.splitlines()), name
    assert sum("(default)" in line for line in said.splitlines()) == 1


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentence_lasts_as_long_as_a_person_needs_for_it(say, text) -> None:
    seconds, characters = say(text).seconds, len(TEXTS[text])
    assert characters / FASTEST < seconds < characters / SLOWEST + PAUSES_S


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_neither_silent_nor_clipped(say, text) -> None:
    wav = say(text).wav
    levels = levels_db(wav)
    assert np.all(np.isfinite(wav))
    assert -40 < 10 * np.log10(np.mean(wav.astype(np.float64) ** 2)) < -8
    assert np.mean(levels > -45) > 0.4, "most of it is silence"
    assert np.mean(np.abs(wav) > 0.98) < 1e-3, "it is clipped"


@pytest.mark.parametrize("text", TEXTS)
def test_its_level_rises_and_falls_with_syllables(say, text) -> None:
    wav = say(text).wav
    levels = levels_db(wav)
    loud = levels[levels > np.max(levels) - 40]
    assert np.percentile(loud, 90) - np.percentile(loud, 10) > 10, "it hums"
    spectrum = np.abs(np.fft.rfft(wav)) ** 2
    below = spectrum[: int(len(spectrum) * 4_000 / (RATE_HZ / 2))].sum()
    assert below / spectrum.sum() > 0.7, "it hisses"


def test_other_words_are_other_tokens(say) -> None:
    first, second = (np.concatenate(say(text).speech_tokens) for text in TEXTS)
    assert len(set(first.tolist())) > 10
    assert len(first) != len(second) or np.any(first != second)


def test_the_same_seed_is_the_same_audio(say) -> None:
    np.testing.assert_array_equal(say("short").wav, say("short", take=1).wav)


def test_another_voice_sounds_another_way(tts, say) -> None:
    default = tts.bundle.default_voice
    other = next(v for v in tts.voices() if v != default and tts.voice(v).lang == "en")
    mine, theirs = say("short").wav, say("short", other).wav
    assert mine.shape != theirs.shape or np.any(mine != theirs)


def test_its_speech_can_be_cloned(tts, say, tmp_path) -> None:
    path = tmp_path / "it.wav"
    say("short").save(path)
    voice = tts.clone(path, SHORT)
    assert abs(len(voice.speech_tokens) / 25 - say("short").seconds) < 0.1
    assert np.all(np.isfinite(voice.speaker_embedding))


def test_the_command_needs_nothing_but_a_text(tts, say, tmp_path, monkeypatch) -> None:
    from cosyjax.infer import synthesize

    asked = []
    monkeypatch.setattr(synthesize, "load", lambda *a, **k: asked.append(a) or tts)
    assert main(["synth", SHORT, "-o", str(tmp_path / "o.wav"), "-q"]) == 0
    wav, rate_hz = soundfile.read(tmp_path / "o.wav", dtype="float32")
    assert asked == [(shipped.shipped_folder(),)] and rate_hz == RATE_HZ
    np.testing.assert_allclose(wav, say("short").wav, atol=2 / 32768)
