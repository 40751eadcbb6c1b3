"""Batches of utterances of like length for the flow."""

import logging

import numpy as np
import pytest

from cosyjax.data.config import SourceConfig
from cosyjax.data.flow import FlowData
from cosyjax.errors import InputError
from tests.data import memory

BUCKETS = (50, 100, 200, 400)


def data(**settings):
    settings = {"batch_size": 2, "row_multiple": 2, "num_threads": 0} | settings
    return FlowData(buckets=BUCKETS, codebook_size=81, **settings)


@pytest.fixture(scope="module")
def source():
    return memory.Memory(memory.features(60))


def test_rows_are_whole_utterances_with_zeros_after_them(source):
    for batch in memory.batches(data(), [source], 12):
        for i, number in enumerate(batch["records"]):
            record, count = source[number], int(batch["num_tokens"][i])
            assert count == len(record["speech_tokens"])
            np.testing.assert_array_equal(
                batch["speech_tokens"][i, :count], record["speech_tokens"]
            )
            np.testing.assert_array_equal(batch["mel"][i, : 2 * count], record["mel"])
            np.testing.assert_array_equal(
                batch["speaker_embedding"][i], record["speaker_embedding"]
            )
            assert not batch["speech_tokens"][i, count:].any()
            assert not batch["mel"][i, 2 * count :].any()
        assert batch["mel"].dtype == np.float32 and batch["num_tokens"].dtype == np.int32


def test_a_bucket_is_the_smallest_that_fits_and_all_hold_about_as_many_frames(source):
    shapes = set()
    for batch in memory.batches(data(), [source], 40):
        rows, size = batch["speech_tokens"].shape
        below = max([0, *(b for b in BUCKETS if b < size)])
        assert np.all((below < batch["num_tokens"]) & (batch["num_tokens"] <= size))
        assert batch["mel"].shape == (rows, 2 * size, 80)
        shapes.add((rows, size))
    assert shapes == {(16, 50), (8, 100), (4, 200), (2, 400)}


def test_the_longest_bucket_has_batch_size_rows_and_the_others_divide_as_it_does():
    assert data(batch_size=12, row_multiple=8).sizes() == (96, 48, 24, 12)
    assert data(batch_size=3, row_multiple=8).sizes() == (24, 12, 6, 3)
    sizes = FlowData(batch_size=16, row_multiple=8).sizes()
    assert sizes[-1] == 16 and not any(size % 8 for size in sizes)


def test_with_even_rows_every_bucket_has_batch_size_of_them(source):
    got = memory.batches(data(same_frames=False), [source], 20)
    assert {len(batch["records"]) for batch in got} == {2}


def test_records_come_up_equally_often_whatever_their_bucket(source):
    got = memory.batches(data(), [source], 300)
    counts = np.bincount(np.concatenate([batch["records"] for batch in got]), minlength=60)
    assert counts.min() >= 0.7 * counts.mean() and counts.max() <= 1.4 * counts.mean()


def test_every_source_has_its_share_of_the_records():
    sources = [memory.Memory(memory.features(n, n)) for n in (40, 80)]
    weights = SourceConfig("a", 1.0), SourceConfig("b", 3.0)
    got = memory.batches(data(sources=weights), sources, 300)
    records = np.concatenate([batch["records"] for batch in got])
    assert abs(np.mean(records >= 10**9) - 0.75) < 0.02


def test_a_resumed_run_sees_the_same_batches(source):
    memory.assert_resumes(lambda threads: data(num_threads=threads), [source])


def test_processes_share_the_rows_of_one_batch(source):
    memory.assert_disjoint(data(), [source])


def test_held_out_utterances_come_once_in_every_process_with_as_many_batches(source):
    pipeline = data(batch_size=4, row_multiple=4)
    whole = memory.batches(pipeline, [source], None, split="heldout")
    records = np.concatenate([batch["records"] for batch in whole])
    assert sorted(records[records >= 0]) == list(range(60))
    empty = np.concatenate([b["num_tokens"][b["records"] < 0] for b in whole])
    assert len(empty) and not empty.any()
    for process in range(2):
        part = memory.batches(
            pipeline, [source], None, split="heldout", process=process, num_processes=2
        )
        assert len(part) == len(whole)


def test_another_of_its_length_stands_in_for_an_unreadable_record(source, caplog):
    broken = memory.Memory(memory.features(60), broken=range(0, 60, 5))
    whole = memory.batches(data(), [source], 30)
    with caplog.at_level(logging.WARNING, "cosyjax.data"):
        got = memory.batches(data(num_threads=2), [broken], 30)
    for one, other in zip(got, whole, strict=True):
        bad = other["records"] % 5 == 0
        np.testing.assert_array_equal(one["records"][~bad], other["records"][~bad])
        assert np.all(one["records"] % 5 != 0) and np.all(one["num_tokens"] > 0)
    assert caplog.text.count("clip-5 ") == 1
    memory.assert_same(got, memory.batches(data(), [broken], 30))


def test_an_unreadable_held_out_record_is_an_empty_row():
    broken = memory.Memory(memory.features(60), broken=[7])
    got = memory.batches(data(), [broken], None, split="heldout")
    records = np.concatenate([batch["records"] for batch in got])
    assert sorted(records[records >= 0]) == [i for i in range(60) if i != 7]


def test_nothing_readable_is_an_error_and_not_a_hang():
    broken = memory.Memory(memory.features(60), broken=range(60))
    with pytest.raises(InputError, match="in a row.*damaged"):
        memory.batches(data(num_threads=2), [broken], 1)


def test_a_mel_that_does_not_fit_its_tokens_counts_as_unreadable():
    records = memory.features(60)
    records[3]["mel"] = records[3]["mel"][:-1]
    iterator = memory.start(data(), [memory.Memory(records)])
    got = [next(iterator) for _ in range(30)]
    assert all(3 not in batch["records"] for batch in got)
    assert "do not fit a mel" in iterator.skips.names["clip-3"]


def test_too_long_and_empty_utterances_are_counted():
    records = memory.features(20)
    records += memory.features(2, speech=(401, 402), name="long")
    records += memory.features(1, speech=(0, 1), name="none")
    iterator = memory.start(data(), [memory.Memory(records)])
    assert iterator.skips.counts == {"longer than 400 tokens": 2, "no speech tokens": 1}
    got = memory.batches(data(), [memory.Memory(records)], None, split="heldout")
    numbers = np.concatenate([batch["records"] for batch in got])
    assert sorted(numbers[numbers >= 0]) == list(range(20))


@pytest.mark.parametrize("buckets", [(), (100, 50), (0, 10), (50, 50)])
def test_buckets_must_rise(buckets):
    with pytest.raises(InputError, match="buckets"):
        FlowData(buckets=buckets)
