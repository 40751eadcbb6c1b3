"""Recordings and their transcripts for the speech tokenizer."""

import numpy as np
import pytest

from cosyjax.data.tokenizer import TokenizerData
from cosyjax.data.vocabulary import train_tokenizer
from cosyjax.errors import InputError
from tests.data import memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t"
    train_tokenizer(["the cat sat on the mat"], 290, path)
    return str(path)


@pytest.fixture(scope="module")
def source():
    return memory.Memory(memory.recordings(24, rate_hz=16_000))


@pytest.fixture
def make(folder):
    def build(**settings):
        settings = {"batch_size": 2, "row_multiple": 2, "num_threads": 0} | settings
        return TokenizerData(tokenizer=folder, buckets_s=(1.0, 2.0, 3.0), **settings)

    return build


def test_rows_are_whole_recordings_and_their_transcripts(make, source):
    pipeline = make()
    for batch in memory.batches(pipeline, [source], 12):
        for i, number in enumerate(batch["records"]):
            record, count = source[number], int(batch["num_samples"][i])
            assert count == round(16_000 * record["duration_s"])
            np.testing.assert_array_equal(batch["wav"][i, :count], memory.ramp(count))
            assert not batch["wav"][i, count:].any()
            text = batch["text_tokens"][i, : batch["num_text"][i]].tolist()
            assert pipeline.text_tokenizer.decode(text) == record["text"]
            assert not batch["text_tokens"][i, batch["num_text"][i] :].any()


def test_shapes_follow_the_bucket(make, source):
    got = memory.batches(make(), [source], 30)
    shapes = {(batch["wav"].shape, batch["text_tokens"].shape[1]) for batch in got}
    assert shapes == {((6, 16_000), 16), ((2, 32_000), 32), ((2, 48_000), 48)}


def test_a_recording_of_another_rate_is_resampled(make):
    source = memory.Memory(memory.recordings(8, rate_hz=24_000))
    (batch,) = memory.batches(make(), [source], 1)
    number, count = batch["records"][0], int(batch["num_samples"][0])
    assert abs(count - 16_000 * source[number]["duration_s"]) <= 1
    inner = slice(500, count - 500)  # away from the filter's edges
    wanted = 1.5 * np.arange(count) / memory.FULL_SCALE - 1
    np.testing.assert_allclose(batch["wav"][0, :count][inner], wanted[inner], atol=1e-3)


def test_a_resumed_run_sees_the_same_batches(make, source):
    memory.assert_resumes(lambda threads: make(num_threads=threads), [source])


def test_processes_share_the_rows_of_one_batch(make, source):
    memory.assert_disjoint(make(), [source])


def test_held_out_recordings_come_once(make, source):
    got = memory.batches(make(), [source], None, split="heldout")
    records = np.concatenate([batch["records"] for batch in got])
    assert sorted(records[records >= 0]) == list(range(24))


def test_a_transcript_that_is_empty_or_too_long_is_left_out_and_named(make):
    records = memory.recordings(24, rate_hz=16_000)
    records[2]["text"], records[3]["text"] = "", "xyz " * 60
    iterator = memory.start(make(), [memory.Memory(records)])
    got = np.concatenate([next(iterator)["records"] for _ in range(30)])
    assert 2 not in got and 3 not in got
    assert "0 text tokens where 1 to" in iterator.skips.names["clip-2"]
    assert "raise data.text_per_s" in iterator.skips.names["clip-3"]


def test_a_recording_longer_than_it_says_is_left_out(make):
    records = memory.recordings(24, rate_hz=16_000, seconds=(1.5, 1.9))
    records[5]["audio"] = memory.encoded(memory.ramp(40_000), 16_000)
    iterator = memory.start(make(), [memory.Memory(records)])
    assert all(5 not in next(iterator)["records"] for _ in range(24))


def test_without_a_tokenizer_the_config_says_what_to_set(source):
    with pytest.raises(InputError, match="set data.tokenizer"):
        memory.batches(TokenizerData(num_threads=0), [source], 1)
