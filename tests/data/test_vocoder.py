"""Pieces of recordings with the pitch of the same place."""

import numpy as np
import pytest

from cosyjax.data import records
from cosyjax.data.config import SourceConfig
from cosyjax.data.vocoder import VocoderData, WithAudio
from cosyjax.errors import InputError
from tests.data import memory

FRAMES = 12


def data(**settings):
    return VocoderData(crop_frames=FRAMES, batch_size=4, **({"num_threads": 0} | settings))


def pair(count=12, **settings):
    """Features whose pitch is the number of the frame, and their recordings in another order."""
    audio = memory.recordings(count, **settings)
    features = [
        {
            "id": record["id"],
            "duration_s": record["duration_s"],
            "f0": np.arange(int(50 * record["duration_s"]), dtype=np.float32),
        }
        for record in audio
    ]
    return memory.Memory(features), memory.Memory(audio[::-1])


@pytest.fixture(scope="module")
def source():
    return WithAudio(*pair())


def test_pitch_and_recording_are_cut_at_the_same_place(source):
    starts = set()
    for batch in memory.batches(data(), [source], 6):
        assert batch["wav"].shape == (4, 480 * FRAMES) and batch["wav"].dtype == np.float32
        for wav, f0 in zip(batch["wav"], batch["f0"], strict=True):
            np.testing.assert_array_equal(f0, f0[0] + np.arange(FRAMES))
            ramp = memory.ramp(10**5)
            np.testing.assert_array_equal(wav, ramp[480 * int(f0[0]) :][: len(wav)])
            starts.add(int(f0[0]))
        np.testing.assert_array_equal(batch["voiced"], batch["f0"] > 0)
    assert len(starts) > 10


def test_every_place_of_a_recording_can_be_drawn():
    source = WithAudio(*pair(1, seconds=(0.301, 0.302)))  # 15 frames: a piece starts at 0 to 3
    got = memory.batches(data(), [source], 10)
    assert {int(f0) for batch in got for f0 in batch["f0"][:, 0]} == {0, 1, 2, 3}


def test_a_resumed_run_sees_the_same_batches(source):
    memory.assert_resumes(lambda threads: data(num_threads=threads), [source])


def test_processes_share_the_rows_of_one_batch(source):
    memory.assert_disjoint(data(), [source])


def test_held_out_recordings_come_once(source):
    got = memory.batches(data(), [source], None, split="heldout")
    assert [batch["records"].tolist() for batch in got] == np.arange(12).reshape(3, 4).tolist()


def test_recordings_shorter_than_a_piece_are_counted():
    features, audio = pair(3)
    short_features, short_audio = pair(1, seconds=(0.1, 0.11), name="short")
    both = memory.Memory(features._records + short_features._records)
    source = WithAudio(both, memory.Memory(audio._records + short_audio._records))
    iterator = memory.start(data(), [source])
    assert iterator.skips.counts == {"shorter than crop_frames=12": 1}


def test_damaged_audio_is_left_out():
    features, audio = pair()
    audio._records[0]["audio"] = b"RIFF no more"  # of the last record of the features
    iterator = memory.start(data(), [WithAudio(features, audio)])
    assert all(11 not in next(iterator)["records"] for _ in range(10))
    assert "not readable as audio" in iterator.skips.names["clip-11"]


def test_features_without_their_recording_are_refused(monkeypatch):
    features, audio = pair(3)
    del audio._records[0]
    sources = {"features": features, "audio": audio}
    monkeypatch.setattr(records, "open_source", lambda path, kind, split: sources[kind])
    with pytest.raises(InputError, match="lacks 1 recordings.*clip-2"):
        data(sources=(SourceConfig("a"),)).dataset("train", seed=0)
