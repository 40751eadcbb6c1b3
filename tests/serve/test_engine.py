"""Requests share a batch: each says what it says alone, and the end of one is no other's."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.serve.engine import StreamEngine
from tests.tiny_stream import decibels
from tests.tiny_talker import streamer

TEXTS = ("the cat sat. a dog ran off.", "go on.", "one. two. three.", "what now", "so it goes.")


@pytest.fixture(scope="module")
def engine():
    with StreamEngine(streamer()) as running:
        yield running


@pytest.fixture(scope="module")
def alone() -> list[np.ndarray]:
    return [
        np.concatenate(list(streamer().stream(text, voice="short", seed=seed)))
        for seed, text in enumerate(TEXTS)
    ]


def heard(ticket) -> np.ndarray:
    return np.concatenate(list(ticket))


def assert_equal_sound(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape and decibels(got, wanted) > 60


def test_more_requests_than_rows_all_say_what_each_says_alone(engine, alone) -> None:
    tickets = [engine.submit(text, voice="short", seed=seed) for seed, text in enumerate(TEXTS)]
    for ticket, wanted in zip(tickets, alone, strict=True):
        assert_equal_sound(heard(ticket), wanted)


def test_text_that_comes_later_is_spoken_while_others_speak(engine, alone) -> None:
    by_hand = engine.submit(voice="short", seed=0)
    other = engine.submit(iter(TEXTS[1]), voice="short", seed=1)
    by_hand.feed(TEXTS[0][:14])
    assert_equal_sound(heard(other), alone[1])
    by_hand.feed(TEXTS[0][14:])
    by_hand.end()
    assert_equal_sound(heard(by_hand), alone[0])
    with pytest.raises(InputError, match="has ended; submit another"):
        by_hand.feed("more")


def test_a_listener_who_leaves_makes_room(engine, alone) -> None:
    for _ in range(5):
        for _ in engine.submit(TEXTS[0], voice="short"):
            break
    assert_equal_sound(heard(engine.submit(TEXTS[1], voice="short", seed=1)), alone[1])


def test_the_error_of_one_texts_source_is_heard_by_its_listener_alone(engine, alone) -> None:
    def broken():
        yield "the cat"
        raise ConnectionError("the line is dead")

    bad, good = engine.submit(broken()), engine.submit(TEXTS[2], voice="short", seed=2)
    with pytest.raises(ConnectionError, match="the line is dead"):
        heard(bad)
    assert_equal_sound(heard(good), alone[2])
    empty = engine.submit(iter([" "]))
    with pytest.raises(InputError, match="nothing to speak"):
        heard(empty)
    long = engine.submit(["x" * 2000])
    with pytest.raises(InputError, match="text tokens"):
        heard(long)


def test_bad_requests_are_refused_at_once(engine) -> None:
    with pytest.raises(InputError, match="no voice 'nobody'"):
        engine.submit("hello", voice="nobody")
    with pytest.raises(InputError, match="nothing to speak"):
        engine.submit("12.")


def test_too_many_waiting_requests_and_a_closed_engine_are_refused() -> None:
    with StreamEngine(streamer(), max_waiting=0) as full:
        with pytest.raises(InputError, match="0 requests wait already"):
            full.submit("hello")
    with pytest.raises(InputError, match="this engine is closed"):
        full.submit("hello")


def test_whoever_listens_to_an_engine_that_closes_is_told() -> None:
    engine = StreamEngine(streamer())
    waits = engine.submit(voice="short")
    told = []

    def listen() -> None:
        try:
            heard(waits)
        except InputError as error:
            told.append(str(error))

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(0.05)
    engine.close()
    listener.join(timeout=10)
    assert told == ["the engine was closed before all was said"]
