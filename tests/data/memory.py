"""Sources of records in memory, and what every pipeline is held to."""

from __future__ import annotations

import functools
import io
import json
from typing import Any

import numpy as np
import soundfile

from cosyjax.data.config import rows_of_process
from cosyjax.errors import InputError

FULL_SCALE = 32767
STEPS = 2 * FULL_SCALE + 1


class Memory:
    """Records in a list; those whose number is in `broken` cannot be read."""

    def __init__(self, records: list[dict[str, Any]], broken=()):
        self._records, self.broken = records, set(broken)

    def __len__(self):
        return len(self._records)

    def __getitem__(self, number):
        if number in self.broken:
            raise InputError(f"record {number} is damaged")
        return self._records[number]

    def column(self, name):
        if name.startswith("num_"):
            return [len(record[name.removeprefix("num_")]) for record in self._records]
        return [record[name] for record in self._records]

    def __repr__(self):
        return f"Memory({len(self)})"


def features(count, seed=0, *, text=(5, 60), speech=(25, 400), codes=81, name="clip"):
    """Records of kind "features" with lengths in the given ranges."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        num_text, num_speech = random.integers(*text), random.integers(*speech)
        made.append(
            {
                "id": f"{name}-{index}",
                "speaker": f"s{index % 3}",
                "lang": "en",
                "text": "a few words",
                "text_tokens": random.integers(0, 100, num_text).astype(np.int32),
                "speech_tokens": random.integers(0, codes, num_speech).astype(np.int32),
                "speaker_embedding": random.standard_normal(192).astype(np.float32),
                "mel": random.standard_normal((2 * num_speech, 80)).astype(np.float16),
                "f0": (100 + 50 * random.random(2 * num_speech)).astype(np.float32),
                "duration_s": num_speech / 25,
            }
        )
    return made


def batches(pipeline, sources, count, *, split="train", seed=0, process=0, num_processes=1):
    """The first `count` batches, all of them for None."""
    iterator = start(pipeline, sources, split, seed, process, num_processes)
    try:
        return list(iterator) if count is None else [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def start(pipeline, sources, split="train", seed=0, process=0, num_processes=1):
    """An iterator over sources in memory."""
    shares = functools.partial(rows_of_process, process=process, num_processes=num_processes)
    return iter(pipeline.dataset_of(sources, split, seed, shares))


def assert_same(got, wanted):
    """Both are lists of equal batches."""
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def assert_resumes(make, sources, *, before=3, after=4):
    """A state from the middle continues bit for bit, with any number of threads.

    Args:
      make: num_threads -> pipeline.
      sources: sources in memory.
      before: batches taken before the state is saved.
      after: batches compared.
    """
    whole = batches(make(0), sources, before + after)
    for saving, resuming in ((0, 0), (0, 3), (3, 0), (3, 3)):
        first = start(make(saving), sources)
        for _ in range(before):
            next(first)
        state = json.loads(json.dumps(first.get_state()))
        next(first)  # going on does not touch a state that was taken
        first.close()
        second = start(make(resuming), sources)
        next(second)  # an iterator in use may be set back too
        second.set_state(state)
        assert_same([next(second) for _ in range(after)], whole[before:])
        second.close()


def assert_disjoint(pipeline, sources, *, num_processes=2, count=4):
    """The processes' rows put together are the rows of one process; all that is random agrees."""
    whole = batches(pipeline, sources, count)
    parts = [
        batches(pipeline, sources, count, process=i, num_processes=num_processes)
        for i in range(num_processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def recordings(count, seed=0, *, seconds=(0.6, 2.7), rate_hz=24_000, name="clip"):
    """Records of kind "audio": wav files in which sample n of record r is a ramp of its own."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        num_samples = int(rate_hz * random.uniform(*seconds))
        made.append(
            {
                "id": f"{name}-{index}",
                "speaker": f"s{index % 3}",
                "lang": "en",
                "text": "the cat sat on the mat"[: 3 + index % 12],
                "audio": encoded(ramp(num_samples), rate_hz),
                "duration_s": num_samples / rate_hz,
            }
        )
    return made


def ramp(num_samples):
    """[N] float32 that rises by a step of 16 bits a sample: a piece says where it was cut."""
    return ((np.arange(num_samples) % STEPS - FULL_SCALE) / FULL_SCALE).astype(np.float32)


def encoded(wav, rate_hz):
    """The bytes of a wav file that keeps float samples."""
    file = io.BytesIO()
    soundfile.write(file, wav, rate_hz, format="WAV", subtype="FLOAT")
    return file.getvalue()
