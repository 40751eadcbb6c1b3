"""The model that comes with the package says in chunks what it says whole; minutes of compiling."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import cosyjax
from cosyjax.eval.stream_bench import Material, speak_whole, stream_tokens
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.streaming import Streamer, StreamSetup
from tests.tiny_stream import decibels

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def tts():
    return cosyjax.load(dtype="float32")  # rounded operands differ with the shapes of products


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [5, 15, 25, 50])
def test_streamed_audio_equals_the_whole(tts, chunk) -> None:
    setup = StreamSetup(schedule=StreamConfig(chunk, chunk), left_context=-1, max_seconds=10.0)
    streamer = Streamer(tts, setup)
    opening = streamer.opening()
    tokens = np.random.default_rng(0).integers(0, 6561, 93).astype(np.int32)
    whole, _ = speak_whole(tts, opening, streamer.speaker.models, tokens, KEY)
    given = Material(tokens, KEY, whole, 0.0)
    wav, _, _ = stream_tokens(streamer, opening, given)
    assert wav.shape == whole.shape
    assert decibels(wav, whole) > 60


@pytest.mark.slow
def test_the_shipped_model_streams_a_sentence_and_the_same_again(tts) -> None:
    text = "The weather will be fine in the morning."
    wavs = list(tts.stream(text))
    assert len(wavs) > 1
    wav = np.concatenate(wavs)
    tokens = tts.synthesize(text).speech_tokens
    assert len(wav) == 960 * sum(map(len, tokens))
    np.testing.assert_array_equal(np.concatenate(list(tts.stream(iter(text)))), wav)
    assert not np.array_equal(np.concatenate(list(tts.stream(text, seed=1))), wav)
