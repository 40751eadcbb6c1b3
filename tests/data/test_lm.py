"""Packed batches of the language model against the layout of each record by itself."""

import logging

import numpy as np
import pytest

from cosyjax.data import lm
from cosyjax.data.config import SourceConfig
from cosyjax.errors import InputError
from cosyjax.ops import interleave
from tests.data import memory

CODES = 81


def data(**settings):
    settings = {"max_length": 1024, "batch_size": 4, "num_threads": 0} | settings
    return lm.LMData(codebook_size=CODES, **settings)


@pytest.fixture(scope="module")
def source():
    return memory.Memory(memory.features(200))


def segments(batch):
    """(record, {name: values}) of every sequence of a batch."""
    for row, records in enumerate(batch["records"]):
        for segment, record in enumerate(records[records >= 0], start=1):
            where = batch["segment_ids"][row] == segment
            yield int(record), {
                name: batch[name][row][where] for name in batch if name != "records"
            }


def laid_out(record, bistream):
    text, speech = record["text_tokens"], record["speech_tokens"]
    return interleave.interleave(
        text[None],
        np.asarray([len(text)]),
        speech[None],
        np.asarray([len(speech)]),
        np.asarray([bistream]),
        codebook_size=CODES,
        xp=np,
    )


def test_every_sequence_is_whole_and_laid_out_as_the_model_lays_it_out(source):
    bistreams = 0
    for batch in memory.batches(data(), [source], 3):
        for record, got in segments(batch):
            options = [laid_out(source[record], bistream) for bistream in (False, True)]
            match = [o for o in options if np.array_equal(got["kinds"], o.kinds[0])]
            assert match, record
            bistreams += match[-1] is options[1] and not np.array_equal(*(o.ids for o in options))
            for name in ("ids", "targets"):
                np.testing.assert_array_equal(got[name], getattr(match[-1], name)[0])
            np.testing.assert_array_equal(got["positions"], np.arange(len(got["ids"])))
    assert bistreams > 10


def test_what_is_not_a_sequence_is_padding(source):
    (batch,) = memory.batches(data(), [source], 1)
    nothing = batch["segment_ids"] == 0
    assert 0 < nothing.sum() < 0.2 * nothing.size
    np.testing.assert_array_equal(batch["kinds"] == interleave.PADDING, nothing)
    assert np.all(batch["targets"][nothing] == interleave.IGNORED)
    assert not batch["ids"][nothing].any() and not batch["positions"][nothing].any()
    assert {name: batch[name].dtype for name in batch if name != "records"} == {
        name: np.int32 for name in ("ids", "kinds", "targets", "segment_ids", "positions")
    }


@pytest.mark.parametrize("length", [1024, 2048])
def test_rows_are_at_least_97_percent_full(length):
    pipeline = data(max_length=length, batch_size=16)
    got = memory.batches(pipeline, [memory.Memory(memory.features(400))], 12)
    assert np.mean([batch["segment_ids"] > 0 for batch in got]) >= 0.97


def test_an_epoch_holds_every_record_once(source):
    pipeline = data(batch_size=1)
    plan = pipeline.plan([source], "train", 0, lm.SkipLog())
    packed = plan._batches._rows._parts[0]
    seen = [draw for row in range(packed.num_rows) for draw in packed[row]]
    wanted = {(0, record, epoch) for record in range(200) for epoch in range(packed._copies)}
    assert len(seen) == len(wanted) and set(seen) == wanted


def test_the_fullest_row_of_an_epoch_fills_the_table_of_records(source):
    got = memory.batches(data(batch_size=16), [source], 20)
    assert any((batch["records"][:, -1] >= 0).any() for batch in got)


def test_a_resumed_run_sees_the_same_batches(source):
    memory.assert_resumes(lambda threads: data(num_threads=threads), [source])


def test_processes_share_the_rows_of_one_batch(source):
    memory.assert_disjoint(data(), [source])


def test_another_seed_gives_another_order(source):
    (one,), (other,) = (memory.batches(data(), [source], 1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one["records"][:, 0], other["records"][:, 0])


def test_half_of_the_samples_that_can_be_are_bistream_and_none_where_it_is_off():
    long_speech = memory.Memory(memory.features(100, text=(10, 20), speech=(100, 200)))

    def share(pipeline):
        kinds = [
            g["kinds"] for b in memory.batches(pipeline, [long_speech], 8) for _, g in segments(b)
        ]
        return np.mean([k[6] == interleave.SPEECH for k in kinds])

    assert 0.35 < share(data()) < 0.65
    assert share(data(bistream=False)) == 0


def test_the_layout_of_a_record_changes_between_epochs():
    records = memory.features(1, text=(10, 11), speech=(100, 101))
    (batch,) = memory.batches(data(), [memory.Memory(records)], 1)
    assert 1 < len({got["kinds"].tobytes() for _, got in segments(batch)})


def test_a_sequence_that_is_too_long_is_left_out_and_counted(caplog):
    records = memory.features(20) + memory.features(2, speech=(2000, 2001), name="long")
    with caplog.at_level(logging.WARNING, "cosyjax.data"):
        iterator = memory.start(data(), [memory.Memory(records)])
    assert iterator.skips.counts == {"longer than max_length=1024": 2}
    assert "2 of 22" in caplog.text and "long-0" in caplog.text
    assert np.all(next(iterator)["records"] < 20)


def test_an_unreadable_record_leaves_its_place_empty_and_is_named(source, caplog):
    broken = memory.Memory(memory.features(200), broken=[3])
    whole = memory.batches(data(), [source], 20)
    with caplog.at_level(logging.WARNING, "cosyjax.data"):
        iterator = memory.start(data(num_threads=2), [broken])
        got = [next(iterator) for _ in range(20)]
        iterator.close()
    uses = sum(int((batch["records"] == 3).sum()) for batch in whole)
    assert uses > 0 and iterator.skips.counts["unreadable"] >= uses
    assert caplog.text.count("clip-3") == 1
    kept = lambda batch: sorted(batch["records"][batch["records"] >= 0])
    assert [kept(b) for b in got] == [[r for r in kept(b) if r != 3] for b in whole]


def test_records_that_are_all_unreadable_are_an_error():
    broken = memory.Memory(memory.features(20), broken=range(20))
    with pytest.raises(InputError, match="clip-.* damaged.*prepare the data again"):
        memory.batches(data(), [broken], 1)


def test_speech_tokens_beyond_the_codebook_are_an_error():
    with pytest.raises(InputError, match="codebook_size=81 allows 0 to 80"):
        memory.batches(data(), [memory.Memory(memory.features(20, codes=6561))], 1)


def test_held_out_records_come_once_and_the_last_batch_is_filled_up(source):
    got = memory.batches(data(), [source], None, split="heldout", seed=7)
    records = np.concatenate([batch["records"].reshape(-1) for batch in got])
    assert sorted(records[records >= 0]) == list(range(200))
    assert all(batch["ids"].shape == (4, 1024) for batch in got)
    assert np.all(got[-1]["records"][-1] == -1) and not got[-1]["segment_ids"][-1].any()
    memory.assert_same(got, memory.batches(data(), [source], None, split="heldout", seed=8))


def test_sources_share_the_rows_by_weight():
    sources = [memory.Memory(memory.features(50, seed)) for seed in (0, 1)]
    configs = SourceConfig("a", 3.0), SourceConfig("b", 1.0)
    got = memory.batches(data(sources=configs), sources, 16)
    rows = np.concatenate([batch["records"][:, 0] for batch in got])
    assert np.mean(rows >= 10**9) == 0.25
