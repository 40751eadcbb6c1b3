"""Pieces of recordings with their speakers' numbers."""

import numpy as np
import pytest

from cosyjax.data import records
from cosyjax.data.config import SourceConfig
from cosyjax.data.speaker import SpeakerData
from tests.data import memory

SAMPLES = 8_000


@pytest.fixture(scope="module")
def train():
    return memory.Memory(memory.recordings(12, rate_hz=16_000))


@pytest.fixture
def make(monkeypatch, train):
    monkeypatch.setattr(records, "open_source", lambda path, kind, split: train)

    def build(num_threads=0):
        configs = (SourceConfig("a"),)
        return SpeakerData(sources=configs, crop_s=0.5, batch_size=4, num_threads=num_threads)

    return build


def test_a_piece_is_cut_anywhere_and_carries_its_speakers_number(make, train):
    starts = set()
    for batch in memory.batches(make(), [train], 6):
        assert batch["wav"].shape == (4, SAMPLES) and batch["speaker"].dtype == np.int32
        for wav, speaker, number in zip(*(batch[k] for k in ("wav", "speaker", "records"))):
            start = round((float(wav[0]) + 1) * memory.FULL_SCALE)
            np.testing.assert_array_equal(wav, memory.ramp(10**5)[start : start + SAMPLES])
            assert make().speakers[speaker] == train[number]["speaker"]
            starts.add(start)
    assert len(starts) > 20


def test_speakers_are_numbered_by_their_sorted_names(make):
    assert make().speakers == ("s0", "s1", "s2")


def test_a_recording_shorter_than_a_piece_is_repeated(make):
    short = memory.recordings(1, rate_hz=16_000, seconds=(0.2, 0.21))
    (batch,) = memory.batches(make(), [memory.Memory(short)], 1)
    period = round(16_000 * short[0]["duration_s"])
    np.testing.assert_array_equal(batch["wav"][0, period:], batch["wav"][0, :-period])


def test_a_piece_of_another_rate_has_the_same_length(make):
    other = memory.Memory(memory.recordings(4, rate_hz=44_100, seconds=(0.6, 1.4)))
    (batch,) = memory.batches(make(), [other], 1)
    slope = np.diff(batch["wav"][:, 1000:-1000]).mean(axis=1) * memory.FULL_SCALE
    np.testing.assert_allclose(slope, 44_100 / 16_000, rtol=1e-3)


def test_a_held_out_speaker_who_is_not_in_the_train_split_is_counted(make):
    strange = memory.recordings(4, rate_hz=16_000)
    strange[2]["speaker"] = "stranger"
    pipeline = make()
    iterator = memory.start(pipeline, [memory.Memory(strange)], split="heldout")
    assert iterator.skips.counts == {"a speaker who is not in the train split": 1}
    assert [batch["records"].tolist() for batch in iterator] == [[0, 1, 3, -1]]


def test_a_resumed_run_sees_the_same_batches(make, train):
    memory.assert_resumes(make, [train])


def test_processes_share_the_rows_of_one_batch(make, train):
    memory.assert_disjoint(make(), [train])
