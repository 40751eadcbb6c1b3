"""Text to audio in chunks: the tokens of the whole, the sound of the whole, row by row."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import decode_rows, decode_text, stream_step
from cosyjax.infer.acoustic_state import reach
from cosyjax.infer.decode import SamplingConfig, decode_chunk
from cosyjax.infer.feed_text import feed_text, text_progress
from cosyjax.infer.speak import SynthesisConfig, text_to_tokens
from cosyjax.infer.stages import Stage, Stages
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.stream_step import Arrival, Sizes, Speaker
from cosyjax.infer.voice_state import begin_row, voice_state
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from tests.drawn import drawn
from tests.tiny_stream import FLOW, RATE, Heard, assert_same, speaker, voice, whole

LM = TextSpeechLMConfig(
    *(1, 12, 4, 2, 4, 20),
    rope_theta=100.0,
    text_vocab_size=30,
    codebook_size=FLOW.vocab_size,
    mix_ratio=(2, 4),
)
SAMPLING = SamplingConfig(method="random", runaway_window=0)
RATIOS = SynthesisConfig(min_tokens_per_text_token=2.0, max_tokens_per_text_token=6.0)
SCHEDULE = StreamConfig(5, 5)
KEYS = jax.random.split(jax.random.key(8), 3)
TEXTS = [np.array(ids, np.int32) for ids in ([3, 9, 4, 22, 7], [8, 1], [5, 17, 2])]
LONG = np.array([3, 9, 4, 22, 7, 11, 5], np.int32)
MAX_TOKENS, LM_LENGTH, ROOM, TEXT_ROOM = 32, 66, 60, 16
BATCH = 4  # programs of tests/infer/test_acoustic_stream.py serve here too


@pytest.fixture(scope="module")
def talker() -> Speaker:
    params = drawn(lambda key: text_speech_lm.init_params(LM, key))
    params["head"]["bias"][FLOW.vocab_size + 1 :] = -1e4  # of the three ends eos alone is drawn
    models, acoustic = speaker()
    return Speaker(Stage(TextSpeechLM(LM), params), models, acoustic, SAMPLING)


def begin(talker: Speaker, batch: int = BATCH) -> stream_step.StreamState:
    window = SCHEDULE.window(talker.models)
    sizes = Sizes(batch, reach(talker.models, ROOM), MAX_TOKENS, LM_LENGTH, window, TEXT_ROOM)
    return stream_step.init_stream_state(talker, sizes)


def read(talker: Speaker, text: np.ndarray, key: jax.Array):
    sizes = {"max_tokens": MAX_TOKENS, "lm_length": LM_LENGTH}
    return decode_rows.start_row(
        talker.lm, text, voice(0), key, sampling=SAMPLING, config=RATIOS, **sizes
    )


def arrive(talker: Speaker, num_prompt: int, index: int, final: bool = True) -> Arrival:
    made = voice_state(talker.models, talker.params, voice(num_prompt, seed=index))
    row = begin_row(made.acoustic, KEYS[index], reach(talker.models, ROOM))
    lm = read(talker, TEXTS[index], KEYS[index])
    return Arrival(row, made.tail, made.num_tail, lm, final)


def read_on(talker: Speaker, text: np.ndarray, key: jax.Array, final: bool = False):
    """The LM of a row whose text goes on."""
    sizes = {"max_tokens": MAX_TOKENS, "lm_length": LM_LENGTH, "text_room": TEXT_ROOM}
    options = {"sampling": SAMPLING, "config": RATIOS, "final": final, **sizes}
    return decode_rows.start_text_row(talker.lm, text, voice(0), key, **options)


def open_text(talker: Speaker, text: np.ndarray, last_piece: bool = True, **final) -> Arrival:
    """A row in the voice of `arrive(talker, 12, 0)` whose text goes on."""
    lm, text_state = read_on(talker, text, KEYS[0], **final)
    spoken = arrive(talker, 12, 0, final=last_piece)
    return spoken._replace(lm=lm, text=text_state)


def said_whole(talker: Speaker, text: np.ndarray, key: jax.Array) -> np.ndarray:
    """The tokens that the LM draws at once."""
    state = decode_chunk(
        talker.lm.model,
        talker.lm.params,
        read(talker, text, key),
        MAX_TOKENS,
        sampling=SAMPLING,
    )
    return np.asarray(state.tokens)[0, : int(state.num_tokens[0])]


class Listener:
    """Keeps what rows say."""

    def __init__(self, talker: Speaker, batch: int) -> None:
        self.talker, self.state = talker, begin(talker, batch)
        self.mels: list[list] = [[] for _ in range(batch)]
        self.wavs: list[list] = [[] for _ in range(batch)]

    def join(self, row: int, arrival: Arrival) -> None:
        self.state = stream_step.join_row(self.state, row, arrival)
        self.mels[row], self.wavs[row] = [], []

    def step(self) -> np.ndarray:
        """Returns which rows have said all."""
        spoken, done, self.state = stream_step.stream_step(self.talker, self.state, 5)
        spoken, done = jax.device_get((spoken, done))
        for row in range(len(done)):
            self.mels[row].append(spoken.mel[row, : spoken.num_frames[row]])
            self.wavs[row].append(spoken.wav[row, : spoken.num_samples[row]])
        return done

    def run(self) -> None:
        """Speaks until all rows have ended."""
        for _ in range(30):
            if np.all(self.step()):
                return
        raise AssertionError("a row does not end")

    def heard(self, row: int) -> Heard:
        return Heard(np.concatenate(self.mels[row]), np.concatenate(self.wavs[row]))


@pytest.fixture(scope="module")
def listener(talker: Speaker) -> Listener:
    """Two of four rows: one whose text comes in pieces, one in the place of one abandoned."""
    ear = Listener(talker, BATCH)
    ear.join(0, arrive(talker, 12, 0, final=False))
    ear.join(1, arrive(talker, 0, 2))
    ear.step()
    ear.state = stream_step.leave_row(ear.state, 1)
    assert ear.step()[1] and len(ear.wavs[1][-1]) == 0
    ear.join(1, arrive(talker, 7, 1))
    for _ in range(10):  # the first row runs out of text
        ear.step()
    assert len(ear.wavs[0][-1]) == 0 and not np.asarray(ear.state.queue.done)[0]
    second = read(talker, TEXTS[1], KEYS[2])
    ear.state = stream_step.next_piece(ear.state, 0, second, True)
    ear.run()
    return ear


def test_a_row_draws_the_tokens_of_the_whole_and_says_what_they_say_whole(talker, listener) -> None:
    drawn_whole = said_whole(talker, TEXTS[1], KEYS[1])
    assert 4 <= len(drawn_whole) <= 12
    assert_same(listener.heard(1), whole(voice(7, seed=1), drawn_whole, KEYS[1]))


def test_pieces_of_text_share_one_stream_without_a_seam(talker, listener) -> None:
    pieces = [said_whole(talker, TEXTS[0], KEYS[0]), said_whole(talker, TEXTS[1], KEYS[2])]
    drawn_whole = np.concatenate(pieces)
    got = listener.heard(0)
    assert len(got.wav) == len(drawn_whole) * RATE
    assert_same(got, whole(voice(12, seed=0), drawn_whole, KEYS[0]))


def test_the_lm_draws_no_more_than_the_chunk_needs(talker) -> None:
    state = begin(talker)
    state = stream_step.join_row(state, 0, arrive(talker, 0, 0))
    _, _, state = stream_step.stream_step(talker, state, 5)
    assert np.asarray(state.lm.num_tokens).tolist() == [5 + talker.models.lookahead, 0, 0, 0]


@pytest.mark.slow
def test_the_tokens_are_those_of_synthesis(talker) -> None:
    stages = Stages(lm=talker.lm)
    text, key = TEXTS[0], KEYS[0]
    wanted = text_to_tokens(stages, text, voice(0), key, SAMPLING, RATIOS)
    np.testing.assert_array_equal(said_whole(talker, text, key), wanted)


def test_chunks_grow_and_the_first_one_fills_up_the_prompts_last(talker) -> None:
    config = StreamConfig(first_chunk=5, chunk=25, growth=2)
    for num_tail, first in ((0, 5), (3, 10), (5, 10), (7, 15)):
        sizes = list(itertools.islice(config.sizes(talker.models, num_tail), 5))
        assert sizes == [first, 5, 10, 20, 25]
        assert first + talker.models.lookahead <= config.window(talker.models)


def test_sizes_that_the_mask_does_not_allow_are_named(talker) -> None:
    with pytest.raises(InputError, match="chunk=12 must be a multiple of mask_chunk=5; use 10 or"):
        StreamConfig(5, 12).check(5)
    with pytest.raises(InputError, match="first_chunk=3 .* use 5 or 10"):
        StreamConfig(3, 10).check(5)
    with pytest.raises(InputError, match="first_chunk <= chunk"):
        StreamConfig(10, 5)
    with pytest.raises(InputError, match="chunk=50; this state takes at most"):
        stream_step.stream_step(talker, begin(talker), 50)


def test_a_text_that_does_not_fit_the_stream_is_refused(talker) -> None:
    longer = dataclasses.replace(voice(0), lm_text_tokens=np.zeros(40, np.int32))
    with pytest.raises(InputError, match="this stream was made for 66"):
        decode_rows.start_row(
            *(talker.lm, TEXTS[0], longer, KEYS[0]),
            sampling=SAMPLING,
            config=RATIOS,
            max_tokens=MAX_TOKENS,
            lm_length=LM_LENGTH,
        )


@pytest.fixture(scope="module")
def writer(talker: Speaker) -> Listener:
    """A text that comes token by token, the same at once, and a row that knows its text."""
    ear = Listener(talker, BATCH)
    ear.join(0, open_text(talker, LONG[:0]))
    ear.join(1, open_text(talker, LONG, final=True))
    ear.join(2, arrive(talker, 7, 1))
    for token in LONG:
        ear.state = feed_text(ear.state, 0, np.array([token]))
        ear.step()
    rests = text_progress(ear.state).resting[0]
    assert rests and not ear.step()[0] and len(ear.wavs[0][-1]) == 0
    ear.state = feed_text(ear.state, 0, LONG[:0], final=True)
    ear.run()
    return ear


def test_text_that_comes_bit_by_bit_sounds_like_text_that_is_there(talker, writer) -> None:
    tokens, num = np.asarray(writer.state.lm.tokens), np.asarray(writer.state.lm.num_tokens)
    np.testing.assert_array_equal(tokens[0], tokens[1])
    got, wanted = writer.heard(0), writer.heard(1)
    np.testing.assert_array_equal(got.wav, wanted.wav)
    assert_same(got, whole(voice(12, seed=0), tokens[0, : num[0]], KEYS[0]))
    assert num[0] >= 4 * len(LONG) // 2


def test_a_row_beside_those_that_read_says_what_it_says_alone(talker, writer) -> None:
    drawn_whole = said_whole(talker, TEXTS[1], KEYS[1])
    assert_same(writer.heard(2), whole(voice(7, seed=1), drawn_whole, KEYS[1]))


@pytest.mark.slow
def test_pieces_whose_text_goes_on_share_one_stream(talker) -> None:
    ear = Listener(talker, BATCH)
    ear.join(0, open_text(talker, LONG[:4], last_piece=False))
    ear.state = feed_text(ear.state, 0, LONG[4:], final=True)
    for _ in range(10):
        ear.step()
    assert text_progress(ear.state).ended[0] and not np.asarray(ear.state.queue.done)[0]
    tokens = [np.asarray(ear.state.lm.tokens)[0, : int(ear.state.lm.num_tokens[0])]]
    lm, text = read_on(talker, LONG[:1], KEYS[2])
    ear.state = stream_step.next_piece(ear.state, 0, lm, True, text)
    ear.step()
    ear.state = feed_text(ear.state, 0, LONG[1:5], final=True)
    ear.run()
    tokens.append(np.asarray(ear.state.lm.tokens)[0, : int(ear.state.lm.num_tokens[0])])
    assert_same(ear.heard(0), whole(voice(12, seed=0), np.concatenate(tokens), KEYS[0]))


def test_an_empty_text_ends_its_stream_after_more_than_fits_was_refused(talker) -> None:
    ear = Listener(talker, BATCH)
    ear.join(0, open_text(talker, LONG[:0]))
    with pytest.raises(InputError, match="17 text tokens for row 0"):
        feed_text(ear.state, 0, np.zeros(17, np.int32))
    assert not ear.step()[0]
    ear.state = feed_text(ear.state, 0, LONG[:0], final=True)
    ear.run()
    assert len(ear.heard(0).wav) == 0


def test_one_loop_serves_all_rows(talker, writer) -> None:
    before = decode_text.decode_wanted._cache_size()
    ear = Listener(talker, BATCH)
    ear.join(3, arrive(talker, 0, 2))
    ear.join(1, open_text(talker, LONG[:3]))
    ear.step()
    ear.state = feed_text(ear.state, 1, LONG[3:])
    ear.step()
    assert decode_text.decode_wanted._cache_size() == before
