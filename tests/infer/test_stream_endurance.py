"""Streams that go on and on: nothing grows, neither programs nor memory nor time."""

from __future__ import annotations

import gc
import itertools
import resource
import time

import jax
import numpy as np
import pytest

from cosyjax.infer.acoustic_stream import acoustic_step
from cosyjax.infer.decode_text import decode_wanted
from tests.tiny_talker import streamer


def programs() -> tuple[int, int]:
    return acoustic_step._cache_size(), decode_wanted._cache_size()


def test_further_requests_compile_nothing() -> None:
    own = streamer()
    speak = lambda seed: list(own.stream(f"go on{'.' * (seed % 3)}", voice="short", seed=seed))
    speak(0)
    before = programs()
    for seed in range(1, 30):
        speak(seed)
    assert programs() == before


@pytest.mark.slow
def test_a_thousand_short_requests_compile_nothing_and_leave_memory_flat() -> None:
    own, held = streamer(), []
    assert list(own.stream("go on.", seed=0))
    before = programs()
    for seed in range(1000):
        assert list(own.stream("go on.", seed=seed))
        if seed % 100 == 99:
            gc.collect()
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            held.append((len(jax.live_arrays()), peak_kib))
    assert programs() == before
    assert held[-1][0] == held[1][0]
    assert held[-1][1] - held[1][1] < 20_000, held


@pytest.mark.slow
def test_an_endless_text_takes_as_long_at_its_end_as_at_its_beginning() -> None:
    own = streamer()
    text = itertools.islice(itertools.cycle("the cat sat. a dog ran off. "), 20_000)
    times, start = [], time.perf_counter()
    num_samples = 0
    for wav in own.stream(text):
        num_samples += len(wav)
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    assert num_samples > 16 * 10_000  # 400 s of tiny tokens, far beyond what attention sees
    part = len(times) // 5
    early, late = np.median(times[part : 2 * part]), np.median(times[-part:])
    assert 0.5 < late / early < 2.0
