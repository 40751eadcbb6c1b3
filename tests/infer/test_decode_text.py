"""Text that arrives while rows speak: the tokens of the official schedule, however it arrives."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import decode_rows, decode_text, speak
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.decode_bistream import BistreamOptions, generate_bistream
from cosyjax.infer.feed_text import feed_text, text_progress
from cosyjax.infer.speak import NO_TOKENS, Conditions, SynthesisConfig
from cosyjax.infer.stages import Stage
from cosyjax.infer.stream_step import StreamState
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from tests.drawn import drawn

TINY = TextSpeechLMConfig(1, 8, 2, 1, 4, 12, text_vocab_size=30, codebook_size=27, mix_ratio=(2, 3))
SAMPLING = SamplingConfig(method="random", runaway_window=0)
NO_LIMIT = SynthesisConfig(min_tokens_per_text_token=0.0, max_tokens_per_text_token=1e6)
SIZES = {"max_tokens": 48, "lm_length": 82, "text_room": 12}
TEXT = np.array([3, 9, 4, 22, 7, 11, 5], np.int32)
KEYS = jax.random.key(5), jax.random.key(6)
NO_VOICE = (NO_TOKENS, NO_TOKENS)
PROMPT = (np.array([8, 1, 2], np.int32), np.arange(20, 25, dtype=np.int32))


@pytest.fixture(scope="module")
def lm() -> Stage:
    params = drawn(lambda key: text_speech_lm.init_params(TINY, key))
    params["head"]["bias"][27:] = -0.5, -0.5, 1.2  # a fill comes early now and then
    return Stage(TextSpeechLM(TINY), params)


class Rows:
    """Two rows, with nothing of a stream but the language model's half."""

    def __init__(self, lm: Stage, sampling: SamplingConfig = SAMPLING) -> None:
        self.stage, self.sampling = lm, sampling
        text = decode_text.no_text(2, SIZES["text_room"], TINY.mix_ratio[0], sampling)
        idle = decode_rows.idle(lm.model, 2, SIZES["lm_length"], SIZES["max_tokens"])
        self.state = StreamState(idle, None, None, jax.tree.map(jax.numpy.array, text))

    def conditions(self, voice) -> Conditions:
        return Conditions(*voice, NO_TOKENS, speak.NO_MEL, np.zeros(4, np.float32))

    def begin(self, row: int, text, voice=NO_VOICE, final=False, config=NO_LIMIT) -> None:
        given = self.conditions(voice), KEYS[row]
        options = {"sampling": self.sampling, "config": config, "final": final, **SIZES}
        begun = decode_rows.start_text_row(self.stage, text, *given, **options)
        self.put(row, *begun)

    def known(self, row: int, text) -> None:
        """Begins a row whose whole text is read before."""
        given = self.conditions(NO_VOICE), KEYS[row]
        sizes = {name: SIZES[name] for name in ("max_tokens", "lm_length")}
        options = {"sampling": self.sampling, "config": NO_LIMIT, **sizes}
        self.put(row, decode_rows.start_row(self.stage, text, *given, **options), None)

    def put(self, row: int, one, text) -> None:
        text = decode_text.after_text(one, self.state.text) if text is None else text
        self.state = self.state.replace(
            lm=decode_rows.put_row(self.state.lm, row, one),
            text=decode_text.put_row(self.state.text, row, text),
        )

    def draw(self, *wanted: int) -> None:
        lm, text = decode_text.decode_wanted(
            *(self.stage.model, self.stage.params, self.state.lm, self.state.text),
            np.array(wanted, np.int32),
            sampling=self.sampling,
        )
        self.state = self.state.replace(lm=lm, text=text)

    def feed(self, row: int, text, final: bool = False) -> None:
        self.state = feed_text(self.state, row, np.asarray(text, np.int32), final)

    def tokens(self, row: int) -> list[int]:
        state = self.state.lm
        return np.asarray(state.tokens)[row, : int(state.num_tokens[row])].tolist()

    def fed(self, row: int) -> int:
        """Positions that the model has read of a row."""
        return int(jax.tree.leaves(self.state.lm.lm)[-1][row])


def official(lm: Stage, text, voice=NO_VOICE, sampling=SAMPLING) -> list[int]:
    """What the official schedule says when the text comes in pieces of a block."""
    n = TINY.mix_ratio[0]
    pieces = [text[i : i + n] for i in range(0, len(text), n)]
    pieces += [text[:0]] * 2  # a piece allows one block, and a prompt's text may be one more
    options = BistreamOptions(sampling, SIZES["max_tokens"], duplicate_last_token=False)
    key = jax.random.fold_in(jax.random.fold_in(KEYS[0], speak.LM_STREAM), 0)
    prompt = {"prompt_text": voice[0], "prompt_speech": voice[1]}
    made = generate_bistream(lm.model, lm.params, pieces, key=key, options=options, **prompt)
    return list(made)


def at_once(lm: Stage, text, voice=NO_VOICE, config=NO_LIMIT) -> list[int]:
    """What a row alone says whose text is there from the start."""
    rows = Rows(lm)
    rows.begin(0, text, voice, final=True, config=config)
    rows.draw(99, 0)
    return rows.tokens(0)


def ending(lm: Stage, eos: float) -> Stage:
    """The model with another inclination to end, and none to ask for text before it must."""
    bias = np.array(lm.params["head"]["bias"])
    bias[TINY.eos :] = eos, -1e4, -1e4
    return lm._replace(params=lm.params | {"head": lm.params["head"] | {"bias": bias}})


@pytest.mark.parametrize("voice", [NO_VOICE, PROMPT], ids=["no prompt", "prompt"])
def test_a_row_says_what_the_official_schedule_says(lm, voice) -> None:
    wanted = official(lm, TEXT, voice)
    assert at_once(lm, TEXT, voice) == wanted and 15 <= len(wanted) < 40


@pytest.mark.slow
@pytest.mark.parametrize("method, guard", [("greedy", 0), ("ras", 12)])
@pytest.mark.parametrize("num_prompt", [1, 3])
def test_so_it_does_however_tokens_are_drawn(lm, method, guard, num_prompt) -> None:
    sampling = SamplingConfig(method, runaway_window=guard, runaway_distinct=11)
    voice = (PROMPT[0], PROMPT[1][:num_prompt])
    rows = Rows(lm, sampling)
    rows.begin(0, TEXT, voice, final=True)
    rows.draw(99, 0)
    wanted = official(lm, TEXT, voice, sampling)
    assert wanted == rows.tokens(0)[: len(wanted)]  # whose limit does not count fill
    assert bool(rows.state.lm.runaway[0]) == (guard > 0)


def test_text_that_comes_token_by_token_changes_nothing_nor_does_a_row_beside_it(lm) -> None:
    rows = Rows(lm)
    rows.known(1, TEXT[:3])
    rows.draw(0, 99)
    alone = rows.tokens(1)
    rows = Rows(lm)
    rows.begin(0, TEXT[:0])
    rows.known(1, TEXT[:3])
    for turn, token in enumerate(TEXT):
        rows.feed(0, [token])
        rows.draw(99, 2 * turn + 2)  # the second row draws on while the first rests
    rows.feed(0, [], final=True)
    rows.draw(99, 99)
    assert rows.tokens(0) == at_once(lm, TEXT) and rows.tokens(1) == alone
    assert 8 < len(alone) < 48


def test_a_prompt_is_begun_with_the_text_of_its_blocks(lm) -> None:
    rows = Rows(lm)
    assert decode_rows.missing_text(TINY.mix_ratio, rows.conditions(PROMPT)) == 1
    with pytest.raises(InputError, match="needs 1 more text tokens before it can speak"):
        rows.begin(0, TEXT[:0], PROMPT)
    rows.begin(0, TEXT[:1], PROMPT)
    rows.draw(99, 0)
    assert len(rows.tokens(0)) <= 1  # the prompt's block ends
    for token in TEXT[1:]:
        rows.feed(0, [token])
        rows.draw(99, 0)
    rows.feed(0, [], final=True)
    rows.draw(99, 0)
    assert rows.tokens(0) == at_once(lm, TEXT, PROMPT)


def test_a_short_text_is_followed_by_the_rest_of_the_prompts_speech(lm) -> None:
    rows = Rows(ending(lm, -1e4))
    voice = (PROMPT[0], np.arange(10, dtype=np.int32))
    rows.begin(0, TEXT[:2], voice, final=True)
    assert rows.fed(0) == 1 + 5 + 1 + 10 and len(rows.tokens(0)) == 1


def test_a_row_without_text_rests_until_there_is_some(lm) -> None:
    rows = Rows(lm)
    rows.begin(0, TEXT[:3])
    rows.draw(99, 0)
    said, read = rows.tokens(0), rows.fed(0)
    assert text_progress(rows.state).resting.tolist() == [True, False] and 0 < len(said) <= 3
    rows.draw(99, 0)
    assert rows.tokens(0) == said and rows.fed(0) == read
    rows.feed(0, TEXT[3:4])
    assert text_progress(rows.state).resting.tolist() == [False, False]
    rows.draw(99, 0)
    assert rows.tokens(0)[: len(said)] == said and len(said) < len(rows.tokens(0)) <= 6


@pytest.mark.parametrize("num", [1, 2, 4])
def test_a_text_may_end_at_any_time(lm, num) -> None:
    rows = Rows(lm)
    rows.begin(0, TEXT[:num])
    rows.draw(1, 0)  # amid a block, where there is one
    rows.feed(0, [], final=True)
    rows.draw(99, 0)
    assert rows.tokens(0) == at_once(lm, TEXT[:num]) == official(lm, TEXT[:num])


@pytest.mark.parametrize("voice", [NO_VOICE, PROMPT], ids=["no prompt", "prompt"])
def test_an_empty_text_ends_without_a_word(lm, voice) -> None:
    rows = Rows(lm)
    rows.begin(0, TEXT[:0], voice, final=True)
    assert rows.fed(0) == 1  # the prompt is left aside
    rows.begin(1, TEXT[:0], (TEXT[:4], NO_TOKENS))  # an instruction alone says nothing
    rows.feed(1, [])
    rows.draw(99, 99)
    assert text_progress(rows.state).ended.tolist() == [True, False]
    rows.feed(1, [], final=True)
    rows.draw(99, 99)
    assert text_progress(rows.state).ended.all() and rows.tokens(0) == rows.tokens(1) == []


def test_the_model_reads_no_position_that_the_tokens_do_not_need(lm) -> None:
    rows = Rows(lm)
    rows.begin(0, TEXT[:4])
    assert rows.fed(0) == 1  # sos
    read = []
    for wanted in (1, 2, 3, 4, 4):
        rows.draw(wanted, 0)
        assert len(rows.tokens(0)) == wanted
        read.append(rows.fed(0))
    # Two of text, then a token each; the third is read when a fourth is wanted, with two of text.
    assert read == [3, 4, 5, 8, 8]


@pytest.mark.parametrize("eos, num", [(1e4, 19), (-1e4, 20)])
def test_limits_hold_in_the_tail_where_the_text_is_known(lm, eos, num) -> None:
    config = SynthesisConfig(min_tokens_per_text_token=3.9, max_tokens_per_text_token=4.0)
    rows = Rows(ending(lm, eos))
    rows.begin(0, TEXT[:2], config=config)
    rows.draw(99, 0)
    rows.feed(0, TEXT[2:5], final=True)
    rows.draw(99, 0)
    assert len(rows.tokens(0)) == num
    assert rows.tokens(0) == at_once(ending(lm, eos), TEXT[:5], config=config)


def test_text_beyond_the_buffer_is_refused_and_nothing_is_lost(lm) -> None:
    rows = Rows(lm)
    with pytest.raises(InputError, match="13 text tokens would wait; this stream holds 12"):
        rows.begin(0, np.zeros(13, np.int32))
    rows.begin(0, TEXT)
    assert text_progress(rows.state).room.tolist() == [5, 0]
    with pytest.raises(InputError, match="6 text tokens for row 0, which takes 5 now"):
        rows.feed(0, np.zeros(6))
    for room, num in ((5, 6), (99, 13)):
        with pytest.raises(InputError, match="takes 5 now"):
            feed_text(rows.state, 0, np.zeros(num, np.int32), room=room)
    rows.feed(0, [], final=True)
    with pytest.raises(InputError, match="row 0, whose text has ended"):
        rows.feed(0, [1])
    rows.draw(99, 0)
    assert rows.tokens(0) == at_once(lm, TEXT)


def test_text_beyond_what_a_piece_can_say_is_refused(lm) -> None:
    rows = Rows(ending(lm, -1e4))
    rows.begin(0, TEXT)
    num = len(TEXT)
    while (left := int(text_progress(rows.state).budget[0])) > 2:
        rows.feed(0, TEXT[:2])
        rows.draw(99, 0)
        num += 2
    with pytest.raises(InputError, match=f"whose piece takes {left} more: end it with them"):
        rows.feed(0, TEXT[:3])
    rows.feed(0, TEXT[:left], final=True)
    rows.draw(99, 0)
    assert num + left == 31  # 15 blocks say 45, and a tail of some text has room for 3 more
    assert rows.fed(0) == 1 + 31 + 1 + 47 and len(rows.tokens(0)) == 48  # the last is not read


@pytest.mark.parametrize("size", [{"max_tokens": 6}, {"lm_length": 48 + 2 + 3}])
def test_text_beyond_blocks_or_cache_is_refused_as_a_row_begins(lm, size) -> None:
    options = {"sampling": SAMPLING, "config": NO_LIMIT, **SIZES, **size}
    given = Rows(lm).conditions(NO_VOICE), KEYS[0]
    with pytest.raises(InputError, match="4 text tokens; this stream has room for 3"):
        decode_rows.start_text_row(lm, TEXT[:4], *given, **options)


def test_a_row_that_read_its_text_before_takes_no_more(lm) -> None:
    rows = Rows(lm)
    rows.known(1, TEXT[:3])
    with pytest.raises(InputError, match="row 1, whose text has ended"):
        rows.feed(1, [1])
    rows.feed(1, [], final=True)
    assert not text_progress(rows.state).ended[1]
