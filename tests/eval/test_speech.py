"""A bundle speaks for its judges: voices, resynthesis, streams and times."""

from __future__ import annotations

import json
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cosyjax.cli import main
from cosyjax.errors import InputError
from cosyjax.eval import speech, voices
from cosyjax.eval.lists import Item
from tests.conftest import tone


class Voices:
    """Names of voices, as a bundle has them."""

    def voices(self) -> list[str]:
        return ["anna", "bert"]

    def __init__(self, **langs: str) -> None:
        self._langs = langs

    def voice(self, name: str) -> types.SimpleNamespace:
        if name not in self.voices():
            raise InputError(f"no voice {name!r}")
        return types.SimpleNamespace(lang=self._langs.get(name, ""))


def items(*speakers: str) -> list[Item]:
    return [Item(str(i), "Hello.", "en", f"l:{i}", name) for i, name in enumerate(speakers)]


def test_all_voices_say_every_sentence_and_in_turn_one_says_each() -> None:
    pairs, _ = voices.assign(items("", ""), Voices(), None)
    assert [(i.id, v) for i, v in pairs] == [
        ("0", "anna"),
        ("1", "anna"),
        ("0", "bert"),
        ("1", "bert"),
    ]
    pairs, _ = voices.assign(items("", "", ""), Voices(), "rotate")
    assert [v for _, v in pairs] == ["anna", "bert", "anna"]


def test_a_voice_keeps_to_its_language() -> None:
    bundle = Voices(anna="en", bert="zh")
    pairs, _ = voices.assign(items("", ""), bundle, "all")
    assert [v for _, v in pairs] == ["anna", "anna"]
    mixed = [
        item._replace(lang=lang) for item, lang in zip(items("", "", ""), ("zh-CN", "en", "fr"))
    ]
    assert [v for _, v in voices.assign(mixed, bundle, "rotate")[0]] == ["bert", "anna", "anna"]
    assert len(voices.assign(mixed, bundle, "all")[0]) == 4, "French in both"
    assert [v for _, v in voices.assign(mixed, bundle, "bert")[0]] == ["bert"] * 3


def test_a_sentence_of_an_unknown_speaker_is_left_out_of_own_voices() -> None:
    pairs, left_out = voices.assign(items("bert", "carl"), Voices(), "own")
    assert [v for _, v in pairs] == ["bert"] and [i.speaker for i in left_out] == ["carl"]
    with pytest.raises(InputError, match="no speaker of the list"):
        voices.assign(items("carl"), Voices(), "own")


def test_a_list_with_prompts_speaks_in_their_voices_unless_others_are_named() -> None:
    prompted = [item._replace(prompt="p.wav") for item in items("p")]
    assert voices.assign(prompted, Voices(), None)[0][0][1] == ""
    assert voices.assign(prompted, Voices(), "anna")[0][0][1] == "anna"
    with pytest.raises(InputError, match="l:0: has no prompt recording"):
        voices.assign(items(""), Voices(), "prompt")
    with pytest.raises(InputError, match="no voice 'carl'"):
        voices.assign(items(""), Voices(), "anna,carl")


def test_work_that_compiles_a_program_is_timed_again() -> None:
    runs = []

    @jax.jit
    def fresh(x):
        return x * 3.25 + 1

    def work() -> None:
        runs.append(fresh(jnp.ones(3)).block_until_ready())

    speech.timed(work)
    assert len(runs) == 2
    speech.timed(work)
    assert len(runs) == 3


@pytest.mark.slow
def test_a_bundle_is_judged_from_text_to_json(
    tiny_bundle, tiny_tts, fakes, tmp_path: Path, monkeypatch
) -> None:
    import dataclasses

    import numpy as np
    import soundfile

    from cosyjax.eval import judges
    from cosyjax.infer import synthesize

    short = dataclasses.replace(tiny_tts.config, max_tokens_per_text_token=4.0, num_steps=2)
    monkeypatch.setattr(tiny_tts, "config", short)
    monkeypatch.setattr(synthesize, "load", lambda folder, dtype=None: tiny_tts)
    monkeypatch.setitem(judges.RECOGNIZERS, "reader", lambda model: _Deaf())
    soundfile.write(tmp_path / "p.wav", tone(1.5, 24_000), 24_000)
    (tmp_path / "s.txt").write_text("Hello there.\nGood day.")
    (tmp_path / "m.lst").write_text("u1|A tone.|p.wav|Hello there.|p.wav")
    out = tmp_path / "o.json"

    def judged(*words: object) -> dict:
        fixed = ("eval", "--bundle", tiny_bundle, "--asr", "reader", "--speaker", "ear")
        assert main([str(w) for w in (*fixed, "--json", out, "-q", *words)]) == 0
        return json.loads(out.read_text())

    made = judged("--sentences", tmp_path / "s.txt", "--voices", "all")
    assert made["wer"] == 1.0 and made["num_utterances"] == 4 and made["rtf"] > 0
    assert made["first_audio_ms"] > 0 and len(made["by_voice"]) == 2
    assert made["references"] == {"my/voice": "prompt, vocoded"}
    again = judged("--sentences", tmp_path / "s.txt", "--voices", "all")
    seconds = lambda result: [row["seconds"] for row in result["utterances"]]
    assert seconds(made) == seconds(again)
    cloned = judged("--meta-lst", tmp_path / "m.lst", "--stream")
    assert cloned["first_audio_ms"] > 0 and cloned["references"] == {"p": "prompt"}
    twice = judged("--meta-lst", tmp_path / "m.lst", "--resynthesis")
    assert np.isclose(twice["audio_s"], 1.5, atol=0.1) and twice["source"] == "resynthesis"


class _Deaf:
    name = "deaf"

    def transcribe(self, wav_16k: object, lang: str) -> str:
        return ""
