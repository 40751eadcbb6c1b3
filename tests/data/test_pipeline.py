"""What all pipelines share: their configs, their state, and the names of their records."""

import dataclasses

import numpy as np
import pytest

from cosyjax import config
from cosyjax.data import pipeline as shared
from cosyjax.data import records
from cosyjax.data.config import SourceConfig
from cosyjax.data.flow import FlowData
from cosyjax.data.lm import LMData
from cosyjax.data.speaker import SpeakerData
from cosyjax.data.tokenizer import TokenizerData
from cosyjax.data.vocoder import VocoderData
from cosyjax.errors import InputError
from tests.data import memory

ALL = (LMData, FlowData, VocoderData, TokenizerData, SpeakerData)


def data(**settings):
    settings = {"batch_size": 2, "num_threads": 0, "same_frames": False} | settings
    return FlowData(buckets=(100, 400), codebook_size=81, **settings)


@pytest.fixture
def source():
    return memory.Memory(memory.features(30))


@pytest.mark.parametrize("cls", ALL)
def test_a_config_comes_back_from_its_dictionary(cls):
    made = cls(sources=(SourceConfig("a", 2.0),), batch_size=3)
    assert config.from_dict(cls, config.to_dict(made)) == made
    assert dataclasses.replace(made, batch_size=4).batch_size == 4


@pytest.mark.parametrize(
    "change, name",
    [
        ({"batch_size": 4}, "batch_size was 2 and is 4"),
        ({"sources": (SourceConfig("a", 0.5),)}, "weight 1.0.*weight 0.5"),
    ],
)
def test_a_state_of_another_config_is_refused(source, change, name):
    state = memory.start(data(), [source]).get_state()
    with pytest.raises(InputError, match=f"{name}.*start the data again, with another seed"):
        memory.start(data(**change), [source]).set_state(state)


def test_a_state_of_another_seed_or_of_other_records_is_refused(source):
    state = memory.start(data(), [source]).get_state()
    with pytest.raises(InputError, match="seed was 0 and is 1"):
        memory.start(data(), [source], seed=1).set_state(state)
    others = memory.Memory(memory.features(30, name="other"))
    with pytest.raises(InputError, match=r"sources\[0\] was '30 records"):
        memory.start(data(), [others]).set_state(state)


def test_threads_and_processes_may_change_on_resuming(source):
    first = memory.start(data(num_threads=3), [source])
    for _ in range(3):
        next(first)
    state = first.get_state()
    wanted = next(first)
    first.close()
    for process in range(2):
        second = memory.start(data(), [source], process=process, num_processes=2)
        second.set_state(state)
        np.testing.assert_array_equal(
            next(second)["records"], wanted["records"][process : process + 1]
        )


def test_rows_that_do_not_divide_among_the_processes_are_refused(source):
    with pytest.raises(InputError, match="2 rows does not divide among 3 processes"):
        memory.start(data(), [source], num_processes=3)
    with pytest.raises(InputError, match="process=2 of 2"):
        memory.start(data(), [source], process=2, num_processes=2)


def test_a_pipeline_without_sources_says_what_to_set():
    with pytest.raises(InputError, match="set data.sources"):
        data().dataset("train", seed=0)


def test_a_split_without_usable_records_is_an_error(source):
    short = memory.Memory(memory.features(3, speech=(500, 501)))
    with pytest.raises(InputError, match="no usable record in the train split.*400 tokens"):
        memory.start(data(), [short])


def test_records_are_named_by_their_numbers(monkeypatch):
    sources = {name: memory.Memory(memory.features(30, name=name)) for name in "ab"}
    monkeypatch.setattr(records, "open_source", lambda path, kind, split: sources[path])
    pipeline = data(sources=(SourceConfig("a"), SourceConfig("b")))
    numbers = np.asarray([[3, 10**9 + 4], [-1, 0]])
    assert shared.name_records(pipeline, "train", numbers) == ["a-3", "b-4", "a-0"]
    batch = next(iter(pipeline.dataset("train", seed=0)))
    assert len(shared.name_records(pipeline, "train", batch["records"])) == 2


def test_a_bad_config_says_what_is_allowed():
    with pytest.raises(InputError, match="batch_size=0"):
        data(batch_size=0)
    with pytest.raises(InputError, match="num_threads=8 with read_ahead=4"):
        data(num_threads=8)
    with pytest.raises(InputError, match="weight=0"):
        SourceConfig("a", 0.0)


@pytest.mark.parametrize("cls", [FlowData, LMData])
def test_the_longest_batch_has_the_shapes_of_real_ones(cls, source):
    settings = {"codebook_size": 81, "batch_size": 2, "num_threads": 0}
    sized = {"buckets": (400,)} if cls is FlowData else {"max_length": 500}
    made = cls(**settings, **sized)
    rows = next(iter(made.dataset_of([source], "train", 0)))
    real = {name: (x.shape, x.dtype) for name, x in rows.items() if name != "records"}
    assert {name: (x.shape, x.dtype) for name, x in made.longest().items()} == real
