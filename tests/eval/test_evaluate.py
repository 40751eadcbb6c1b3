"""The command from a list to JSON and report, judged by fakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyjax.cli import main
from tests.cli.test_bad_input import refused

RATE_HZ = 24_000
LOW_HZ, HIGH_HZ = 250, 650  # the pitches that the fake ear tells apart


def tone(tenths: int, pitch_hz: float, peak: float = 0.5) -> np.ndarray:
    t = np.arange(tenths * RATE_HZ // 10) / RATE_HZ
    return (peak * np.sin(2 * np.pi * pitch_hz * t)).astype(np.float32)


@pytest.fixture()
def corpus(tmp_path: Path, fakes: dict[int, str]) -> Path:
    """Three English clips of two speakers, one Chinese, each of another length."""
    rows = [
        ("a1", "One two three four.", "anna", "en", tone(3, LOW_HZ)),
        ("a2", "Five six.", "anna", "en", tone(4, LOW_HZ)),
        ("b1", "Seven eight nine ten.", "bert", "en", tone(5, HIGH_HZ, 0.8)),
        ("b2", "你好吗？", "bert", "zh", tone(6, HIGH_HZ)),
    ]
    fakes |= {3: "one two three", 4: "five six", 5: "seven eight nine ten eleven", 6: "你好 嘛"}
    lines = []
    for name, text, speaker, lang, wav in rows:
        soundfile.write(tmp_path / f"{name}.wav", wav, RATE_HZ)
        row = {"id": name, "text": text, "speaker": speaker, "lang": lang, "path": f"{name}.wav"}
        lines.append(json.dumps(row))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    return tmp_path


def judged(corpus: Path, *words: object) -> dict:
    out = corpus / "out.json"
    fixed = ("eval", "--sentences", corpus / "list.jsonl", "--asr", "reader", "--json", out, "-q")
    assert main([str(word) for word in (*fixed, *words)]) == 0
    return json.loads(out.read_text())


def test_rates_are_over_all_words_and_over_all_characters(corpus) -> None:
    result = judged(corpus, "--recordings", "--speaker", "none")
    assert result["wer"] == pytest.approx(2 / 10) and result["num_words"] == 10
    assert result["cer"] == pytest.approx(1 / 3) and result["num_characters"] == 3
    assert result["wer_ci"][0] <= 0.2 <= result["wer_ci"][1]
    assert result["wer_utterance_mean"] == pytest.approx((1 / 4 + 0 + 1 / 4) / 3)
    assert result["by_voice"]["anna"]["wer"] == pytest.approx(1 / 6)
    assert result["by_lang"]["zh"]["wer"] is None
    assert result["similarity"] is None and result["rtf"] is None and result["mos"] == {}


def test_a_clip_is_compared_with_other_clips_of_its_voice(corpus) -> None:
    result = judged(corpus, "--recordings", "--speaker", "ear", "--mos", "level")
    assert result["nearest_is_asked"] == 1.0 and result["similarity"] > 0.99
    assert result["references"] == {"anna": "recordings: 2", "bert": "recordings: 2"}
    assert result["mos"]["level"]["mos"] == pytest.approx(5 * 0.575, rel=1e-2)
    chosen = judged(corpus, "--recordings", "--speaker", "ear", "--languages", "zh")
    assert chosen["nearest_is_asked"] == 1.0, "clips that are not judged are references too"


def test_a_clip_is_no_reference_of_itself(corpus) -> None:
    lines = (corpus / "list.jsonl").read_text().splitlines()
    (corpus / "list.jsonl").write_text("\n".join(lines[:3]))
    rows = judged(corpus, "--recordings", "--speaker", "ear")["utterances"]
    assert rows[2]["id"] == "b1" and rows[2]["similarity"] is None


def test_a_clip_in_the_wrong_voice_is_nearest_to_another(corpus) -> None:
    wavs = corpus / "wavs"
    wavs.mkdir()
    for name, tenths in (("a1", 3), ("a2", 4), ("b1", 5), ("b2", 6)):
        soundfile.write(wavs / f"{name}.flac", tone(tenths, HIGH_HZ), RATE_HZ)
    result = judged(corpus, "--wavs", wavs, "--speaker", "ear")
    assert result["nearest_is_asked"] == 0.5 and result["source"] == "wavs"
    nearest = {row["id"]: row["nearest"] for row in result["utterances"]}
    assert nearest == {"a1": "bert", "a2": "bert", "b1": "bert", "b2": "bert"}


def test_silence_misses_every_word_and_is_not_shown_to_the_judges(corpus) -> None:
    soundfile.write(corpus / "a2.wav", np.zeros(2400, np.float32), RATE_HZ)
    result = judged(corpus, "--recordings", "--speaker", "none", "--mos", "level")
    row = next(row for row in result["utterances"] if row["id"] == "a2")
    assert row["silent"] and row["deletions"] == row["num_units"] == 2 and row["mos"] == {}
    assert result["num_silent"] == 1 and result["wer"] == pytest.approx(4 / 10)


def test_the_report_shows_the_worst_clips_and_one_of_each_voice(corpus) -> None:
    report = corpus / "report"
    report.mkdir()
    (report / "index.html").write_text("an older report, which is replaced")
    (report / "older.wav").write_text("")
    judged(corpus, "--recordings", "--speaker", "none", "--report", report)
    page = (report / "index.html").read_text()
    assert page.index("b2 (bert)") < page.index("a1 (anna)")
    assert "a2 (anna)" not in page and page.count("<audio") == 3 + 2
    assert len(list(report.glob("*.wav"))) == len(list(report.glob("*.png"))) == 5


def test_the_table_and_progress_are_printed(corpus, capsys) -> None:
    words = ("--asr", "reader", "--recordings", "--speaker", "none", "--limit", "2")
    assert main(["eval", "--sentences", str(corpus / "list.jsonl"), *words]) == 0
    said = capsys.readouterr()
    assert "2/2 clips, WER so far 25.0 %, took 0:00:00" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["clips", "all", "anna", "bert"]


@pytest.mark.parametrize(
    "words, said",
    [
        (("--asr", "reader", "--wavs", "gone"), "gone: no such folder"),
        (("--asr", "reader", "--wavs", "."), "no audio for 4 of 4 sentences: a1, a2"),
        (("--asr", "reader", "--recordings", "--voices", "anna"), "has its speakers"),
        (("--asr", "reader", "--recordings", "--json", "o.txt"), "allowed: .json"),
        (("--asr", "reader", "--recordings", "--limit", "0"), "limit=0"),
        (("--asr", "reader", "--recordings", "--speaker", "x"), "no speaker judge 'x'"),
        (("--asr", "reader", "--bundle", "gone"), "no bundle there"),
    ],
)
def test_a_request_that_cannot_be_met(corpus, capsys, monkeypatch, words, said) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert said in refused(capsys, "eval", "--sentences", corpus / "list.jsonl", *words)


def test_a_recording_that_is_not_there_names_the_line(corpus, capsys) -> None:
    (corpus / "b1.wav").unlink()
    words = ("--asr", "none", "--recordings", "--json", corpus / "out.json")
    said = refused(capsys, "eval", "--sentences", corpus / "list.jsonl", *words)
    assert "list.jsonl:3" in said and not (corpus / "out.json").exists()
