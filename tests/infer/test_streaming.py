"""What streams is what the whole says, however the text and the time are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.streaming import StreamSetup
from cosyjax.text.feed import Fed
from tests.tiny_stream import decibels
from tests.tiny_talker import encode, said_whole, streamer

TEXT = "the cat sat. a dog ran off."


def joined(wavs) -> np.ndarray:
    return np.concatenate(list(wavs))


def assert_equal_sound(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    assert decibels(got, wanted) > 60


@pytest.fixture(scope="module")
def streamed() -> np.ndarray:
    return joined(streamer().stream(TEXT, voice="short", seed=3))


def test_what_streams_is_what_the_whole_says(streamed) -> None:
    assert_equal_sound(streamed, said_whole(TEXT, "short", seed=3).wav)


def test_a_text_letter_by_letter_says_what_it_says_at_once(streamed) -> None:
    got = joined(streamer().stream(iter(TEXT), voice="short", seed=3))
    np.testing.assert_array_equal(got, streamed)


def test_a_first_sentence_is_heard_before_the_second_is_written() -> None:
    heard = []

    def write() -> Iterator[str]:
        yield "the cat sat. "
        heard.append("asked")
        yield "a dog ran off."

    for _ in streamer().stream(write()):
        heard.append("sound")
    assert heard[0] == "sound" and "asked" in heard


def test_blocks_of_text_and_speech_do_not_depend_on_how_the_text_comes() -> None:
    at_once = joined(streamer().stream(TEXT, blocks=True, seed=1))
    assert len(at_once) > 0
    for parts in (iter(TEXT), [TEXT[:5], TEXT[5:6], TEXT[6:]]):
        got = joined(streamer().stream(parts, blocks=True, seed=1))
        np.testing.assert_array_equal(got, at_once)


def test_a_coroutine_hears_the_same(streamed) -> None:
    async def write() -> AsyncIterator[str]:
        for letter in TEXT:
            await asyncio.sleep(0)
            yield letter

    async def listen(text) -> list[np.ndarray]:
        return [wav async for wav in streamer().astream(text, voice="short", seed=3)]

    np.testing.assert_array_equal(joined(asyncio.run(listen(write()))), streamed)
    np.testing.assert_array_equal(joined(asyncio.run(listen(TEXT))), streamed)


def test_being_ahead_of_the_listener_changes_nothing(streamed) -> None:
    np.testing.assert_array_equal(
        joined(streamer(ahead=1).stream(TEXT, voice="short", seed=3)), streamed
    )


def test_another_schedule_changes_when_and_not_what(streamed) -> None:
    wavs = list(streamer().stream(TEXT, voice="short", seed=3, schedule=StreamConfig(5, 5)))
    usual = list(streamer().stream(TEXT, voice="short", seed=3))
    assert len(wavs) > len(usual)
    assert_equal_sound(joined(wavs), streamed)


def test_two_streams_in_turn_equal_each_alone(streamed) -> None:
    other = joined(streamer().stream("go on.", seed=5))
    own = streamer()
    session, wavs = own.session(), {}
    rows = [session.open(own.opening("short", seed=3)), session.open(own.opening(seed=5))]
    with pytest.raises(InputError, match="all 2 rows speak"):
        session.open(own.opening())
    for row, text in zip(rows, (TEXT, "go on."), strict=True):
        for piece in own.encode(text):
            session.feed(row, Fed(tuple(piece), True))
        session.end(row)
    while session.busy:
        for said in session.step():
            wavs.setdefault(said.row, []).append(said.wav)
    assert_equal_sound(joined(wavs[rows[0]]), streamed)
    assert_equal_sound(joined(wavs[rows[1]]), other)


def test_a_stream_that_is_left_makes_room_and_disturbs_nobody(streamed) -> None:
    own = streamer()
    session = own.session()
    stays, leaves = session.open(own.opening("short", seed=3)), session.open(own.opening())
    for row in (stays, leaves):
        for piece in own.encode(TEXT):
            session.feed(row, Fed(tuple(piece), True))
        session.end(row)
    wavs = [said.wav for said in session.step() if said.row == stays]
    session.leave(leaves)
    assert session.free_rows == 1
    with pytest.raises(InputError, match="no stream speaks on row"):
        session.feed(leaves, Fed((1,), True))
    again = session.open(own.opening(seed=5))
    assert again == leaves
    session.end(again)  # not a word: a clean end
    while session.busy:
        wavs += [said.wav for said in session.step() if said.row == stays]
    assert_equal_sound(joined(wavs), streamed)


def test_a_text_that_cannot_be_read_ends_its_stream_and_no_other(streamed) -> None:
    own = streamer()
    session, wavs, ends = own.session(), [], []
    good, bad = session.open(own.opening("short", seed=3)), session.open(own.opening())
    for piece in own.encode(TEXT):
        session.feed(good, Fed(tuple(piece), True))
    session.feed(bad, Fed(tuple(encode("x" * 2000)), True))
    session.end(good)
    while session.busy:
        for said in session.step():
            wavs += [said.wav] * (said.row == good)
            ends += [said.error] * (said.row == bad)
    assert len(ends) == 1 and "text tokens" in str(ends[0])
    assert_equal_sound(joined(wavs), streamed)


def test_the_error_of_a_texts_source_comes_through_after_what_was_said() -> None:
    def broken() -> Iterator[str]:
        yield "the cat sat. "
        raise ConnectionError("the line is dead")

    wavs = streamer().stream(broken())
    assert len(next(wavs)) > 0
    with pytest.raises(ConnectionError, match="the line is dead"):
        list(wavs)


def test_a_text_that_stops_in_mid_word_is_spoken_to_its_end() -> None:
    wanted = joined(streamer().stream("the cat sat. a do"))
    np.testing.assert_array_equal(joined(streamer().stream(iter("the cat sat. a do"))), wanted)


def test_what_cannot_be_spoken_is_refused() -> None:
    own = streamer()
    for text in ("", "12."):
        with pytest.raises(InputError, match="nothing to speak"):
            own.stream(text)
        with pytest.raises(InputError, match="nothing to speak"):
            list(own.stream(iter(text)))
    with pytest.raises(InputError, match="gave int 7; it must give strings"):
        list(own.stream([7]))
    with pytest.raises(InputError, match="no voice 'nobody'"):
        own.stream(TEXT, voice="nobody")
    with pytest.raises(InputError, match="must be a multiple of mask_chunk=5"):
        own.stream(TEXT, schedule=StreamConfig(4, 8))
    with pytest.raises(InputError, match="made for .* make it with this schedule"):
        own.stream(TEXT, schedule=StreamConfig(5, 50))


def test_a_setup_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="batch=0"):
        StreamSetup(batch=0)
    with pytest.raises(InputError, match="left_context=0"):
        StreamSetup(left_context=0)
    with pytest.raises(InputError, match="MB are allowed"):
        streamer(limit_bytes=1.0)


def test_a_stream_that_sees_everything_says_how_long_it_may_be() -> None:
    short = streamer(left_context=-1, max_seconds=1.0)
    with pytest.raises(InputError, match="this stream remembers 25"):
        list(short.stream("the cat sat on the mat."))


def test_the_prompt_of_a_voice_is_encoded_once() -> None:
    own = streamer()
    assert own.opening("long").voice is own.opening("long", seed=9).voice
