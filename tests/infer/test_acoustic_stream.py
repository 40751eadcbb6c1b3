"""What streams is what is said whole: sizes of chunks, prompts, rows that come and go, memory."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import acoustic_state, acoustic_stream
from cosyjax.infer.acoustic_state import (
    bounded,
    check_memory,
    check_room,
    init_acoustic,
    reach,
    state_bytes,
)
from tests.tiny_stream import AHEAD, RATE, Stream, assert_same, speaker, tokens, voice, whole

KEYS = jax.random.split(jax.random.key(3), 4)
ROOM = 60  # tokens with the prompt


def begun(num_prompt: int, num_tokens: int, row: int = 0) -> tuple:
    """Arguments of `Stream.join` and `whole`."""
    return voice(num_prompt, seed=row), tokens(num_tokens, seed=row), KEYS[row]


@pytest.fixture(scope="module")
def four() -> tuple[Stream, list[tuple]]:
    """Four rows with uneven prompts and ends, one of which joins late, and has a first life."""
    rows = [begun(12, 26, 0), begun(0, 1, 1), begun(7, 14, 2), begun(8, 20, 3)]
    stream = Stream(4, ROOM)
    for row, given in enumerate(rows[:3]):
        stream.join(row, *given)
    stream.join(3, *begun(5, 40, 1))
    stream.step(5)
    stream.step(5)
    stream.join(3, *rows[3])
    stream.run(5)
    return stream, rows


@pytest.mark.parametrize("row", range(4))
def test_rows_that_join_late_and_end_on_their_own_say_what_each_says_whole(four, row) -> None:
    stream, rows = four
    assert_same(stream.heard(row), whole(*rows[row]))


def test_the_state_keeps_its_size_and_one_program_serves_all_steps(four) -> None:
    stream, _ = four
    models, _ = speaker()
    before = jax.eval_shape(lambda: init_acoustic(models, 4, stream.max_tokens))
    assert state_bytes(stream.state) == state_bytes(before)
    size = acoustic_stream.acoustic_step._cache_size()
    stream.join(2, *begun(8, 3))
    stream.run(5)
    assert acoustic_stream.acoustic_step._cache_size() == size


@pytest.fixture(scope="module")
def alone() -> list[Stream]:
    """Two streams of one row, chunk by chunk in turns."""
    streams = [Stream(1, ROOM), Stream(1, ROOM)]
    streams[0].join(0, *begun(12, 26))
    streams[1].join(0, *begun(12, 18, 3))
    for _ in range(4):
        for stream in streams:
            stream.step(10)
    return streams


@pytest.mark.parametrize("index, row, num", [(0, 0, 26), (1, 3, 18)])
def test_interleaved_streams_say_what_each_says_whole(alone, index, row, num) -> None:
    assert_same(alone[index].heard(0), whole(*begun(12, num, row)))


def test_audio_comes_as_soon_as_the_vocoder_may_speak(alone) -> None:
    first = alone[0].wavs[0][0]
    spoken = 10 - (12 - 5)  # the prompt's last seven tokens fill the first chunk
    behind = speaker()[0].vocoder.config.lookahead // 2
    assert len(first) == (spoken - behind) * RATE


def test_a_row_that_rests_keeps_its_state(alone, four) -> None:
    models, params = speaker()
    for stream in (alone[0], four[0]):
        batch = len(stream.waiting)
        before = jax.tree.map(np.array, stream.state.replace(keys=None))
        given = np.full((batch, (10 if batch == 1 else 5) + AHEAD), 7, np.int32)
        rest = {"num_valid": np.zeros(batch, np.int32), "last": np.zeros(batch, bool)}
        spoken, state = acoustic_stream.acoustic_step(models, params, given, stream.state, **rest)
        stream.state = state
        assert not np.any(spoken.num_samples) and not np.any(spoken.wav)
        after = state.replace(keys=None)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_memory_of_a_bounded_stream_does_not_grow_with_its_length() -> None:
    models, _ = speaker()
    size = lambda models, num: state_bytes(
        jax.eval_shape(lambda: init_acoustic(models, 2, reach(models, num)))
    )
    assert size(models, 200) > size(models, 100)
    narrow = bounded(models, 2)
    assert size(narrow, 200) == size(narrow, 100) == check_memory(narrow, 2, 10, 10**9, None)
    assert reach(models, 101) == 105 and reach(narrow, 101) == 10


def test_a_state_beyond_the_memory_allowed_is_refused() -> None:
    with pytest.raises(InputError, match="4 streams that reach 500 tokens back need .* MB"):
        check_memory(speaker()[0], 4, 500, 1000, None)


def test_a_stream_that_would_forget_what_it_may_see_is_refused() -> None:
    models, _ = speaker()
    with pytest.raises(InputError, match="up to 101 tokens; this stream remembers 100: .* 105"):
        check_room(models, 100, 101)
    check_room(models, 100, 100)
    check_room(bounded(models, 2), 10, 10**6)


def test_a_chunk_that_is_no_multiple_of_the_masks_is_refused() -> None:
    models, params = speaker()
    state = init_acoustic(models, 1, 10)
    rest = {"num_valid": np.array([7], np.int32), "last": np.array([False])}
    with pytest.raises(InputError, match="multiple of mask_chunk=5"):
        acoustic_stream.acoustic_step(models, params, np.zeros((1, 7), np.int32), state, **rest)


def test_the_oldest_frames_leave_a_state_that_shrinks() -> None:
    models, _ = speaker()
    state = init_acoustic(models, 1, 4)
    marked = jax.tree.map(lambda x: x, state.flow.encoder.layers[0].key.at[:, :, -1].set(1.0))
    layers = (state.flow.encoder.layers[0].replace(key=marked), *state.flow.encoder.layers[1:])
    flow = state.flow.replace(encoder=state.flow.encoder.replace(layers=layers))
    for size in (2, 9):
        key = acoustic_state.resize(state.replace(flow=flow), size).flow.encoder.layers[0].key
        assert key.shape[2] == size
        assert np.all(key[:, :, -1] == 1) and not np.any(key[:, :, :-1])


@pytest.mark.slow
@pytest.mark.parametrize("num_prompt", [0, 2, 3, 75, 78, 250])
@pytest.mark.parametrize("first", [5, 15])
@pytest.mark.parametrize("chunk", [5, 15, 25, 50])
def test_every_size_of_chunk_says_what_the_whole_says(num_prompt, first, chunk) -> None:
    given = begun(num_prompt, 87)
    stream = Stream(1, num_prompt + 87)
    stream.join(0, *given)
    assert_same(stream.run(first, chunk)[0], whole(*given))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [15, 25, 50])
def test_four_rows_say_what_each_says_whole(chunk) -> None:
    rows = [begun(75, 87, 0), begun(0, 31, 1), begun(13, 60, 2), begun(78, 5, 3)]
    stream = Stream(4, 75 + 87)
    for row, given in enumerate(rows):
        stream.join(row, *given)
    for got, given in zip(stream.run(5, chunk), rows, strict=True):
        assert_same(got, whole(*given))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [5, 25])
def test_a_bounded_stream_says_what_the_whole_says_under_the_same_bound(chunk) -> None:
    models = bounded(speaker()[0], 2)
    given = begun(33, 61)
    stream = Stream(1, 94, models)
    stream.join(0, *given)
    assert stream.max_tokens == 10
    assert_same(stream.run(chunk)[0], whole(*given, models))
    assert np.max(np.abs(whole(*given).mel - whole(*given, models).mel)) > 1e-3


@pytest.mark.slow
def test_a_whole_utterance_is_one_large_chunk() -> None:
    given = begun(12, 26)
    stream = Stream(1, 0)
    stream.models = speaker()[0]
    stream.join(0, *begun(0, 38))
    assert_same(stream.run(40)[0], whole(*begun(0, 38)))
    prompted = Stream(1, 10)
    prompted.join(0, *given)
    assert_same(prompted.run(35)[0], whole(*given))
