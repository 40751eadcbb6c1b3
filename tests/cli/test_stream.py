"""`cosyjax stream`: what it refuses before it computes, and where its sound goes."""

from __future__ import annotations

import os
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest

from cosyjax import cli
from cosyjax.cli import stream
from cosyjax.infer import synthesize
from tests.tiny_talker import streamer, tts

TEXT = "the cat sat. a dog ran off."


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command with the tiny synthesizer in the place of a bundle."""
    loaded = SimpleNamespace(**vars(tts()), plan=SimpleNamespace(why="tiny"))
    loaded.streamer = lambda setup: streamer()
    monkeypatch.setattr(synthesize, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(type(streamer()), "warmup", lambda *_: None)
    return tmp_path


def test_a_file_holds_what_streams(tiny, capsys) -> None:
    path = tiny / "out.wav"
    assert cli.main(["stream", TEXT, "-v", "short", "--seed", "3", "-o", str(path)]) == 0
    with wave.open(str(path)) as file:
        assert file.getparams()[:3] == (1, 2, 24_000)
        got = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767.0
    wanted = np.concatenate(list(streamer().stream(TEXT, voice="short", seed=3)))
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert "first after" in capsys.readouterr().err


def test_standard_input_is_spoken_while_it_is_written(tiny, monkeypatch) -> None:
    read, write = os.pipe()
    os.write(write, TEXT.encode())
    os.close(write)
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    path = tiny / "out.wav"
    assert cli.main(["stream", "-", "-q", "-o", str(path)]) == 0
    with wave.open(str(path)) as file:
        wanted = np.concatenate(list(streamer().stream(TEXT)))
        assert file.getnframes() == len(wanted)


def test_audio_does_not_go_to_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(["stream", "hello"]) == 2
    assert "give --play, -o FILE.wav, or a pipe" in capsys.readouterr().err


def test_a_missing_player_and_a_bad_file_are_refused(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(stream.shutil, "which", lambda name: None)
    assert cli.main(["stream", "hello", "--play"]) == 2
    assert "--play needs one of ffplay, aplay, play" in capsys.readouterr().err
    assert cli.main(["stream", "hello", "-o", str(tmp_path / "out.mp3")]) == 2
    assert "allowed: .wav" in capsys.readouterr().err


def test_a_failure_leaves_no_file(tiny, capsys) -> None:
    path = tiny / "out.wav"
    assert cli.main(["stream", "12.", "-o", str(path)]) == 2
    assert "nothing to speak" in capsys.readouterr().err
    assert list(tiny.iterdir()) == []
