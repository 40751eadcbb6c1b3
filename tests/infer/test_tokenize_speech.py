"""Whole recordings to tokens: buckets, windows, and how windows join."""

import jax
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer import tokenize_speech as ts
from cosyjax.models.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig, init_params

CONFIG = SpeechTokenizerConfig(
    num_mels=3, embed_dim=8, num_heads=2, num_layers=1, mlp_dim=8, fsmn_width=3
)
MODEL = SpeechTokenizer(CONFIG)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: init_params(CONFIG, key), jax.random.key(0))
    rng = np.random.default_rng(1)
    draw = lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32)
    return jax.tree.map(draw, shapes)


def mel_of(frames, rows=1, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, frames, 3)).astype(np.float32)


def test_a_row_is_the_same_in_any_company_and_any_bucket(params):
    mel = mel_of(150, rows=2)
    tokens, counts = ts.tokenize_speech(MODEL, params, mel, [150, 61])
    alone, count = ts.tokenize_speech(MODEL, params, mel[1:, :61], [61])
    assert counts.tolist() == [38, 16] and count.tolist() == [16] and tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[1, :16], alone[0])
    assert np.all(tokens[1, 16:] == 0)


def test_lengths_of_one_bucket_share_a_program(params):
    ts.tokenize_speech(MODEL, params, mel_of(120), [120])
    before = ts._tokens._cache_size()
    for frames in (101, 166, 200):
        ts.tokenize_speech(MODEL, params, mel_of(frames), [frames])
    assert ts._tokens._cache_size() == before


def test_a_short_row_in_a_long_batch_is_what_it_is_alone(params):
    mel = mel_of(3010, rows=2)
    tokens, counts = ts.tokenize_speech(MODEL, params, mel, [3010, 90])
    alone, _ = ts.tokenize_speech(MODEL, params, mel[1:, :90], [90])
    assert counts.tolist() == [753, 23]
    np.testing.assert_array_equal(tokens[1, :23], alone[0])


def test_windows_are_cut_every_26_seconds():
    assert list(ts.window_starts(3000)) == [0]
    assert list(ts.window_starts(3001)) == [0, 2600]
    assert list(ts.window_starts(5201)) == [0, 2600, 5200]
    assert list(ts.window_starts(0)) == [0]


def test_joining_drops_two_seconds_on_each_side_of_a_meeting():
    windows = [np.arange(0, 750), np.arange(650, 1400), np.arange(1300, 1500)]
    np.testing.assert_array_equal(ts.join_windows(windows), np.arange(1500))


def test_a_last_window_below_two_seconds_adds_nothing():
    windows = [np.arange(0, 750), np.arange(650, 680)]
    np.testing.assert_array_equal(ts.join_windows(windows), np.arange(700))


def test_each_window_of_a_long_recording_is_tokenized_alone(params, monkeypatch):
    monkeypatch.setattr(ts, "WINDOWS_PER_CALL", 2)
    mel = mel_of(5300)
    tokens, counts = ts.tokenize_speech(MODEL, params, mel, [5300])
    parts = [(0, 3000), (2600, 5300), (5200, 5300)]
    windows = [ts.tokenize_speech(MODEL, params, mel[:, a:b], [b - a])[0][0] for a, b in parts]
    np.testing.assert_array_equal(tokens[0], ts.join_windows(windows))
    assert counts.tolist() == [len(tokens[0])]


def test_lengths_beyond_the_array_are_refused(params):
    with pytest.raises(InputError, match="num_frames"):
        ts.tokenize_speech(MODEL, params, mel_of(20), [21])
    with pytest.raises(InputError, match="mel has shape"):
        ts.tokenize_speech(MODEL, params, np.zeros((1, 20, 80), np.float32), [20])
