"""Features in batches equal those of each clip alone, and come in the order of the records."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cosyjax.cli import main
from cosyjax.data import records
from cosyjax.data.progress import Progress
from cosyjax.errors import InputError
from cosyjax.infer import prompt
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.compute import EXACT
from cosyjax.infer.stages import Stages, make_stages
from cosyjax.io import audio
from cosyjax.train import extract
from tests.data.corpora import encoded, tone, tree, write_folder

RATE_HZ = 24_000
CONFIG = extract.ExtractConfig(batch_s=3.0, buckets_s=(1.0,))
SECONDS = (0.5, 0.93, 0.7, 0.31)


@pytest.fixture(scope="module")
def stages(tiny_bundle: Path) -> Stages:
    bundle = load_bundle(tiny_bundle, extract.MODULES)
    return make_stages(bundle.config, dict(bundle.params), EXACT, extract.MODULES)


def wavs() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    made = [tone(s, 120.0 + 40 * n, RATE_HZ) for n, s in enumerate(SECONDS)]
    return [wav + 0.01 * noise.standard_normal(len(wav)).astype("f4") for wav in made]


@pytest.fixture(scope="module")
def features(stages: Stages) -> list[dict]:
    """Of four clips in batches of three, so that the last batch has empty rows."""
    clips = [
        {"id": str(n), "text": "x" * (n + 1), "audio": encoded(wav, "WAV", RATE_HZ)}
        | {"duration_s": len(wav) / RATE_HZ, "speaker": "s", "lang": "en"}
        for n, wav in enumerate(wavs())
    ]
    run = extract.make_extract(stages, lambda text: [ord(c) for c in text], CONFIG)
    lines: list[str] = []
    progress = Progress("features", len(clips), lines.append)
    made = list(run(clips, progress))
    assert "4/4 clips" in progress.line()
    return made


def test_records_come_in_order_with_what_both_clocks_cover(features: list[dict]):
    assert [record["id"] for record in features] == ["0", "1", "2", "3"]
    for record, seconds in zip(features, SECONDS):
        count = len(record["speech_tokens"])
        assert count == int(seconds * 25)
        assert record["mel"].shape == (2 * count, 80) and record["mel"].dtype == np.float16
        assert record["f0"].shape == (2 * count,)
        assert len(record["text_tokens"]) == len(record["text"])
        assert "audio" not in record


def test_a_batch_gives_what_each_clip_gives_alone(features: list[dict], stages: Stages):
    for wav, record in zip(wavs(), features):
        wav, _ = audio.read_raw(encoded(wav, "WAV", RATE_HZ))  # rounded to 16 bits
        wav_16k = prompt.resampled(wav, RATE_HZ, 16_000)
        count = len(record["speech_tokens"])
        tokens = prompt.speech_tokens(stages, wav_16k)
        np.testing.assert_array_equal(record["speech_tokens"], tokens[:count])
        mel = prompt.mel_frames(wav)[: 2 * count]
        np.testing.assert_allclose(record["mel"], mel, atol=5e-3)  # float16 from 4 to 8
        embedding = prompt.speaker_embedding(stages, wav_16k)
        np.testing.assert_allclose(record["speaker_embedding"], embedding, atol=1e-4)


def test_the_pitch_of_a_clip_is_that_of_its_voice(features: list[dict]):
    for number, record in enumerate(features):
        voiced = record["f0"][record["f0"] > 0]
        assert len(voiced) > 0.8 * len(record["f0"])
        assert np.median(voiced) == pytest.approx(120.0 + 40 * number, rel=0.01)


def test_every_clip_goes_into_one_batch_of_its_length():
    config = extract.ExtractConfig(batch_s=8.0, buckets_s=(1.0, 2.0, 4.0))
    seconds = np.random.default_rng(0).uniform(0.3, 4.0, 60)
    clips = [(np.ones(int(s * 100), np.float32), 100) for s in seconds]
    placed, empty = [], 0
    for rows, (wav, num_samples), rate_hz in extract._batches(iter(clips), config):
        assert rate_hz == 100 and len(wav) == config.rows(wav.shape[1] / 100)
        assert [len(clips[row.place][0]) for row in rows] == list(num_samples[: len(rows)])
        np.testing.assert_array_equal(wav.sum(1), num_samples)
        placed += [row.place for row in rows]
        empty += len(wav) - len(rows)
    assert sorted(placed) == list(range(60))
    assert empty < 2  # only the last batch has empty rows


def test_rates_are_not_mixed_in_a_batch():
    clips = [(np.ones(rate, np.float32), rate) for rate in (100, 200, 100)]
    found = [(rate, len(rows)) for rows, _, rate in extract._batches(clips, CONFIG)]
    assert found == [(100, 2), (200, 1)]


def test_a_clip_beyond_the_buckets_is_refused():
    with pytest.raises(InputError, match="at most 1.0 s"):
        CONFIG.bucket(1.2)
    with pytest.raises(InputError, match="rising"):
        extract.ExtractConfig(buckets_s=(2.0, 1.0))


def test_the_command_makes_features_that_belong_to_the_audio(
    tiny_bundle: Path, tmp_path: Path, capsys
):
    source = write_folder(tmp_path / "source", 5, rate_hz=RATE_HZ)
    out = tmp_path / "data"
    words = ["--parts", "2", "--heldout", "0", "--dtype", "float32", "--batch-seconds", "3"]
    whole = ["prepare", str(source), str(out), "--bundle", str(tiny_bundle), *words]
    assert main(whole) == 0
    clips = records.open_source(out, "audio", "train")
    made = records.open_source(out, "features", "train")
    assert [made[n]["id"] for n in range(5)] == [clips[n]["id"] for n in range(5)]
    assert made.column("num_speech_tokens") == [12] * 5
    assert made[0]["text_tokens"].dtype == np.int32 and len(made[0]["text_tokens"]) > 0
    codes = np.concatenate([made[n]["speech_tokens"] for n in range(5)])
    counts = np.unique(codes, return_counts=True)[1]
    entropy = -np.sum(counts / codes.size * np.log(counts / codes.size))
    said = records.read_summary(out)["features"]["splits"]["train"]
    assert said["num_codes"] == len(counts)
    np.testing.assert_allclose(said["code_perplexity"], np.exp(entropy), atol=0.06)
    assert f"{len(counts):,} codes, perplexity" in capsys.readouterr().out
    first = tree(out)
    for path in out.glob("features/train/part-00001-*/part.json"):
        path.unlink()
    assert main(["prepare", str(out), str(out), "--bundle", str(tiny_bundle), *words]) == 0
    assert tree(out) == first
    (tiny_bundle / "SHA256SUMS").rename(tmp_path / "sums")
    try:
        assert main(whole) == 2
    finally:
        (tmp_path / "sums").rename(tiny_bundle / "SHA256SUMS")
    assert "other settings" in capsys.readouterr().err


def test_one_program_serves_every_batch_of_a_length(stages: Stages, features: list[dict]):
    before = extract.extract_program._cache_size()
    batch = np.zeros((3, RATE_HZ), np.float32)
    batch[0, :12000] = tone(0.5, 200.0, RATE_HZ)
    found = extract.extract_batch(stages, batch, np.array([12000, 0, 0]), RATE_HZ)
    assert extract.extract_program._cache_size() == before
    assert np.asarray(found.num_tokens).tolist() == [12, 0, 0]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(found))
