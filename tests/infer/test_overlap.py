"""Streams of a vocoder that is not causal: exact where the overlap covers its field, near below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.eval.overlap_table import random_utterance
from cosyjax.infer import overlap as overlaps
from cosyjax.infer.acoustic_state import state_bytes
from cosyjax.infer.overlap import OverlapConfig, init_overlap, is_exact, sizes, speak_overlapped
from cosyjax.infer.vocode import delay_frames, mel_to_wav, speak_rows
from cosyjax.models.hift import HiFTConfig
from cosyjax.models.hift_field import receptive_field
from cosyjax.ops import source
from tests import tiny_stream
from tests.drawn import normal
from tests.tiny_stream import FLOW, HIFT, MELS, Stream, assert_same, decibels

PLAIN = dataclasses.replace(HIFT, causal=False)
RATE = PLAIN.samples_per_frame
KEYS = jax.random.split(jax.random.key(4), 4)
LENGTHS = (47, 10, 21, 34)
EXACT, SHORT = OverlapConfig(), OverlapConfig(overlap=2, fade=3)


def speaker() -> tuple[Any, Any]:
    models, params = tiny_stream.speaker(PLAIN)
    return models.vocoder, params[1]


@pytest.fixture(scope="module")
def mels() -> list[np.ndarray]:
    return [normal(num, MELS, seed=row) for row, num in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def wholes(mels) -> list[np.ndarray]:
    model, params = speaker()
    padded = np.stack([np.pad(mel, ((0, 64 - len(mel)), (0, 0))) for mel in mels])
    wav = np.asarray(mel_to_wav(model, params, padded, np.array(LENGTHS, np.int32), KEYS))
    assert np.std(wav) > 1e-3 and np.mean(np.abs(wav) > 0.98) < 0.05
    return [row[: num * RATE] for row, num in zip(wav, LENGTHS)]


class Rows:
    """Streams whose mel is known beforehand."""

    def __init__(
        self,
        mels: Sequence[np.ndarray],
        overlap: OverlapConfig,
        keys: Any = KEYS,
        models: tuple[Any, Any] | None = None,
    ) -> None:
        self.model, self.params = models or speaker()
        self.mels, self.overlap, self.keys = list(mels), overlap, keys
        self.state = init_overlap(self.model.config, overlap, len(mels))
        self.at = np.zeros(len(mels), np.int32)
        self.wavs: list[list[np.ndarray]] = [[] for _ in mels]

    def step(self, chunk: int, counts: Sequence[int] | None = None) -> np.ndarray:
        """Every row hears up to `chunk` frames, or so many of them as `counts` says."""
        left = np.array([len(mel) for mel in self.mels]) - self.at
        num = np.minimum(left, chunk if counts is None else np.array(counts)).astype(np.int32)
        given = np.full((len(num), chunk, self.mels[0].shape[1]), np.nan, np.float32)
        for row, mel in enumerate(self.mels):
            given[row, : num[row]] = mel[self.at[row] :][: num[row]]
        wav, spoken, self.state = speak_rows(
            *(self.model, self.params, given, self.state),
            overlap=self.overlap,
            keys=self.keys,
            num_frames=num,
            last=(num == left) & (left > 0),
        )
        for row, said in enumerate(np.asarray(wav)):
            self.wavs[row].append(said[: spoken[row]])
            assert not np.any(said[spoken[row] :])
        self.at += num
        return np.asarray(spoken)

    def run(self, chunk: int) -> list[np.ndarray]:
        """Speaks to the end."""
        while any(at < len(mel) for at, mel in zip(self.at, self.mels)):
            self.step(chunk)
        return [np.concatenate(said) for said in self.wavs]


@pytest.fixture(scope="module")
def exact(mels) -> Rows:
    """Four rows of which the last is begun anew, the third rests, and each ends on its own."""
    rows = Rows([*mels[:3], normal(30, MELS, seed=9)], EXACT)
    rows.step(10)
    rows.step(10, (10, 10, 1, 7))
    fresh = init_overlap(rows.model.config, EXACT, 1)
    put = lambda old, new: old.at[3].set(new[0])
    rows.state = jax.jit(lambda state, one: jax.tree.map(put, state, one))(rows.state, fresh)
    rows.mels[3], rows.at[3], rows.wavs[3] = mels[3], 0, []
    rows.step(10, (10, 0, 0, 3))
    rows.run(10)
    return rows


@pytest.mark.parametrize("row", range(4))
def test_rows_that_begin_rest_and_end_on_their_own_say_what_the_whole_says(
    exact, wholes, row
) -> None:
    got = np.concatenate(exact.wavs[row])
    assert got.shape == wholes[row].shape
    assert decibels(got, wholes[row]) > 90


def test_the_state_keeps_its_size_and_one_program_serves_all_calls(exact, mels) -> None:
    make = lambda: init_overlap(exact.model.config, EXACT, 4)
    assert state_bytes(exact.state) == state_bytes(jax.eval_shape(make))
    compiled = speak_overlapped._cache_size()
    Rows(mels, EXACT).run(10)
    assert speak_overlapped._cache_size() == compiled


def test_a_row_that_rests_keeps_its_state(mels) -> None:
    for overlap in (EXACT, SHORT):
        rows = Rows(mels, overlap)
        rows.step(10)
        before = jax.tree.map(np.array, rows.state)
        rows.step(10, (0, 10, 0, 5))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(rows.state), strict=True):
            np.testing.assert_array_equal(old[[0, 2]], np.asarray(new)[[0, 2]])


def test_a_frame_is_spoken_as_soon_as_all_that_it_depends_on_is_known(mels) -> None:
    rows = Rows(mels, EXACT)
    ahead = receptive_field(PLAIN).ahead
    assert delay_frames(rows.model, EXACT) == ahead
    spoken = rows.step(10) // RATE
    assert spoken.tolist() == [10 - ahead, 10, 10 - ahead, 10 - ahead]  # the second row has ended


def test_below_the_field_a_stream_is_as_long_and_near_the_whole(mels, wholes) -> None:
    got = Rows(mels, SHORT).run(10)
    assert [len(wav) for wav in got] == [len(wav) for wav in wholes]
    assert not is_exact(PLAIN, SHORT)
    assert 10 < decibels(got[0], wholes[0]) < 60


def test_the_error_of_a_short_overlap_does_not_last_in_the_phase(mels) -> None:
    rows = Rows(mels, SHORT)
    for _ in range(4):
        rows.step(10)
    f0 = rows.model.apply({"params": rows.params}, mels[0][None], method="f0")
    steps = source.phase_steps(f0, PLAIN.num_harmonics, PLAIN.sample_rate_hz)
    gone = np.array([40 - sizes(PLAIN, SHORT).kept])
    wanted = source.phase_after(np.zeros((1, 2), np.uint32), steps, RATE, gone)
    turns = (np.asarray(rows.state.phase)[:1] - np.asarray(wanted)).view(np.int32) / 2**32
    assert np.all(np.abs(turns) < 1e-4) and np.any(np.asarray(wanted) != 0)


def test_a_fade_between_equal_sounds_changes_nothing() -> None:
    state = init_overlap(PLAIN, OverlapConfig(4, 24), 1)
    wav = jnp.asarray(normal(1, 64))
    state = state.replace(held=wav[:, :24], spoken=jnp.array([5]))
    np.testing.assert_allclose(overlaps._fade_in(wav, state), wav, atol=1e-6)
    louder = np.asarray(overlaps._fade_in(1.0 + 0.0 * wav, state.replace(held=0 * state.held)))
    rise = louder[0, :24]
    assert np.all(np.diff(rise) > 0) and np.allclose(rise + rise[::-1], 1.0)
    begun = state.replace(held=0 * state.held, spoken=jnp.array([0]))
    np.testing.assert_array_equal(overlaps._fade_in(wav, begun), wav)


def test_an_overlap_beyond_the_field_costs_no_more_than_the_field() -> None:
    behind, ahead = receptive_field(PLAIN)
    assert sizes(PLAIN, OverlapConfig(100, 50)) == sizes(PLAIN, EXACT)
    assert sizes(PLAIN, EXACT) == (behind, ahead, 0, behind + ahead)
    assert sizes(HiFTConfig(), OverlapConfig(2, 5000)) == (2, 2, 960, 10)
    assert is_exact(PLAIN, OverlapConfig(max(behind, ahead)))
    assert configs.from_dict(OverlapConfig, configs.to_dict(SHORT)) == SHORT


@pytest.mark.parametrize("wrong", [{"overlap": -2}, {"fade": -1}])
def test_sizes_that_make_no_sense_are_named(wrong) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        OverlapConfig(**wrong)


def begun(num_prompt: int, num_tokens: int, row: int) -> tuple:
    voice, tokens = tiny_stream.voice(num_prompt, seed=row), tiny_stream.tokens(num_tokens, row)
    return voice, tokens, KEYS[row]


@pytest.mark.slow
def test_tokens_stream_to_the_audio_of_the_whole() -> None:
    rows = [begun(12, 26, 0), begun(0, 3, 1), begun(7, 14, 2), begun(8, 20, 3)]
    stream = Stream(4, 60, config=PLAIN)
    for row, given in enumerate(rows[:3]):
        stream.join(row, *given)
    stream.step(FLOW.mask_chunk)
    stream.join(3, *rows[3])
    for got, given in zip(stream.run(FLOW.mask_chunk), rows, strict=True):
        assert_same(got, tiny_stream.whole(*given, config=PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("chunk", [5, 15, 25, 50])
def test_every_size_of_chunk_says_what_the_whole_says(batch, chunk) -> None:
    rows = [begun(0, 87, 0), begun(12, 31, 1), begun(13, 60, 2), begun(78, 5, 3)][:batch]
    stream = Stream(batch, 78 + 87, config=PLAIN)
    for row, given in enumerate(rows):
        stream.join(row, *given)
    for got, given in zip(stream.run(chunk), rows, strict=True):
        assert_same(got, tiny_stream.whole(*given, config=PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("fade", [5, 16, 32])
def test_calls_shorter_than_a_fade_go_on_with_it(mels, wholes, fade) -> None:
    overlap = OverlapConfig(4, fade)
    got = Rows(mels[:1], overlap, KEYS[:1]).run(1)[0]
    assert len(got) == len(wholes[0]) and decibels(got, wholes[0]) > 10


@pytest.mark.slow
def test_more_overlap_is_nearer_the_whole(mels, wholes) -> None:
    near = [
        decibels(Rows(mels[:1], OverlapConfig(num), KEYS[:1]).run(10)[0], wholes[0])
        for num in (0, 2, 4, 6)
    ]
    assert near == sorted(near) and near[-1] > 90


@pytest.mark.slow
def test_four_rows_of_official_size_say_what_the_whole_says() -> None:
    given = random_utterance(120)
    lengths, keys = (120, 47, 90, 20), KEYS
    mels = [given.mel[len(given.mel) - num :] for num in lengths]
    padded = np.stack([np.pad(mel, ((0, 120 - len(mel)), (0, 0))) for mel in mels])
    wav = mel_to_wav(given.model, given.params, padded, np.array(lengths, np.int32), keys)
    rows = Rows(mels, EXACT, keys, (given.model, given.params))
    for row, said in enumerate(rows.run(30)):
        assert len(said) == lengths[row] * 480
        assert decibels(said, np.asarray(wav)[row, : len(said)]) > 60
