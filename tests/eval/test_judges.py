"""Adapters hand the right things to their libraries; a missing one says how to get it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.eval import judges

WAV = np.zeros(16_000, np.float32)


@pytest.fixture()
def install(monkeypatch):
    """Puts a module of the given names in place of a library; None makes it missing."""

    def put(name: str, **names: object) -> None:
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.fixture()
def whisper(install):
    """A stand-in for faster-whisper and CTranslate2; returns the calls it got."""
    calls: list = []

    class Model:
        def __init__(self, path, **options):
            calls.append((path, options))

        def transcribe(self, wav, **options):
            calls.append(options)
            if options["language"] == "xx":
                raise ValueError("xx is not a valid language code")
            return iter([SimpleNamespace(text=" Hello"), SimpleNamespace(text=" there. ")]), None

    install("faster_whisper", WhisperModel=Model, available_models=lambda: ["base", "large-v3"])
    install(
        "ctranslate2",
        get_cuda_device_count=lambda: 0,
        set_random_seed=lambda seed: calls.append(seed),
    )
    return calls


def model_folder(path: Path) -> Path:
    path.mkdir()
    (path / "model.bin").write_bytes(b"")
    return path


def test_whisper_reads_each_clip_for_itself(whisper, tmp_path) -> None:
    judge = judges.load_recognizer(str(model_folder(tmp_path / "base")))
    assert judge.transcribe(WAV, "en") == "Hello there."
    assert judge.name == "faster-whisper base"
    (_, opened), seed, options = whisper
    assert opened == {"device": "cpu", "compute_type": "int8"} and seed == 0
    assert options["beam_size"] == 5 and not options["condition_on_previous_text"]
    assert options["without_timestamps"] and options["initial_prompt"] is None


def test_whisper_gets_a_prompt_in_chinese_alone(whisper) -> None:
    judge = judges.load_recognizer("large-v3")
    judge.transcribe(WAV, "zh")
    assert "普通话" in whisper[-1]["initial_prompt"]


def test_whisper_refuses_a_language_that_it_does_not_know(whisper) -> None:
    with pytest.raises(InputError, match="cannot read language 'xx'"):
        judges.load_recognizer("base").transcribe(WAV, "xx")


def test_a_folder_without_a_model_and_an_unknown_name_are_refused(whisper, tmp_path) -> None:
    with pytest.raises(InputError, match="no CTranslate2 model there"):
        judges.load_recognizer(str(tmp_path))
    with pytest.raises(InputError, match="not a folder"):
        judges.load_recognizer(str(tmp_path / "gone"))
    with pytest.raises(InputError, match="did you mean 'large-v3'"):
        judges.load_recognizer("large-v4")


@pytest.mark.parametrize(
    "load, spec, words",
    [
        (judges.load_recognizer, "base", r"faster_whisper.*cosyjax\[eval\]"),
        (judges.load_recognizer, "paraformer", "pip install funasr"),
        (judges.load_speaker, "resemblyzer", "--no-deps resemblyzer"),
        (judges.load_speaker, "eres2net", "modelscope"),
        (judges.load_mos, "dnsmos", r"cosyjax\[eval\]"),
        (judges.load_mos, "distillmos", "--no-deps distillmos"),
    ],
)
def test_a_judge_that_is_not_installed_says_how_to_get_it(monkeypatch, load, spec, words) -> None:
    for name in ("faster_whisper", "funasr", "resemblyzer", "modelscope.pipelines"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("speechmos.dnsmos", "distillmos"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=words):
        load(spec)


def test_an_unknown_judge_names_the_nearest_and_none_is_nobody() -> None:
    with pytest.raises(InputError, match="did you mean 'resemblyzer'"):
        judges.load_speaker("resemblizer")
    with pytest.raises(InputError, match="no MOS judge 'x'"):
        judges.load_mos("x")
    assert judges.load_recognizer("none") is judges.load_speaker("none") is None
    assert judges.load_mos("none") == {}


def test_paraformer_reads_two_languages(install) -> None:
    model = SimpleNamespace(generate=lambda **given: [{"text": f"{len(given['input'])} 你好"}])
    install("funasr", AutoModel=lambda **given: model)
    judge = judges.load_recognizer("paraformer")
    assert judge.transcribe(WAV, "zh") == "16000 你好"
    with pytest.raises(InputError, match="not 'ja'"):
        judge.transcribe(WAV, "ja")


def test_resemblyzer_hears_the_whole_clip_where_its_voice_detector_finds_nothing(install) -> None:
    encoder = SimpleNamespace(embed_utterance=lambda wav: np.full(3, len(wav)))
    install(
        "resemblyzer",
        VoiceEncoder=lambda device, verbose: encoder,
        preprocess_wav=lambda wav: wav[: 8000 if wav.any() else 0],
    )
    judge = judges.load_speaker("resemblyzer")
    assert judge.embed(WAV)[0] == 16_000
    assert judge.embed(WAV + 1)[0] == 8_000


def test_eres2net_gives_the_embedding_of_one_clip(install) -> None:
    pipe = lambda wavs, output_emb: {"embs": np.arange(4.0)[None]}
    install("modelscope")
    install("modelscope.pipelines", pipeline=lambda task, model: pipe)
    np.testing.assert_array_equal(judges.load_speaker("eres2net").embed(WAV), np.arange(4.0))


def test_dnsmos_is_given_samples_within_one(install) -> None:
    given = []

    def run(wav, sr):
        given.append((float(wav.max()), sr))
        return {"ovrl_mos": 1, "sig_mos": 2, "bak_mos": 3, "p808_mos": 4, "filename": "x"}

    install("speechmos")
    install("speechmos.dnsmos", run=run)
    scored = judges.load_mos("dnsmos")["dnsmos"].score(WAV + 1.5)
    assert scored == {"ovrl": 1.0, "sig": 2.0, "bak": 3.0, "p808": 4.0}
    assert given == [(1.0, 16_000)]


def test_a_judge_of_ones_own_is_registered_by_name() -> None:
    table: dict = {}
    judges.register(table, "mine", lambda model: model)
    with pytest.raises(InputError, match="no judge can be called 'mine'"):
        judges.register(table, "mine", lambda model: model)
    with pytest.raises(InputError, match="'a:b'"):
        judges.register(table, "a:b", lambda model: model)


@pytest.mark.judge
def test_the_real_recognizer_reads_a_recording() -> None:
    from cosyjax.io.audio import read_audio

    speech = sorted((Path(__file__).parent.parent / "data" / "speech").rglob("*.jsonl"))
    assert speech, "no recordings in tests/data/speech"
    from cosyjax.eval import lists, scores, text_norm

    judge = judges.load_recognizer(os.environ["COSYJAX_JUDGE_ASR"])
    errors = []
    for item in [i for i in lists.read_list(speech[0]) if i.lang == "en"][:4]:
        wav = read_audio(lists.read_recording(item.recording, item.place), judges.RATE_HZ)
        heard = judge.transcribe(wav, "en")
        units = text_norm.units
        errors.append(scores.count_errors(units(item.text, "en"), units(heard, "en")))
    assert scores.error_rate(errors) < 0.3
