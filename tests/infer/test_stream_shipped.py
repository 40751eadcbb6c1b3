"""The model that comes with the package, and official sizes, say in chunks what they say whole.

Real and official sizes show what tiny ones cannot: rounding that grows with widths and depths, and
caches of many shapes. All of it takes minutes of compiling.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

import cosyjax
from cosyjax.eval.random_bundle import draw_params
from cosyjax.infer.acoustic import prepare_for_synthesis
from cosyjax.infer.acoustic_state import AcousticModels
from cosyjax.models import flow, hift, vocoder
from tests import tiny_stream
from tests.tiny_stream import Stream, assert_same, tokens

KEYS = jax.random.split(jax.random.key(5), 4)
PROMPTS = {"no prompt": 0, "3 s": 75, "10 s": 250}  # tokens
ENDS = (93, 31, 60, 5)  # tokens of four rows
Given = tuple[AcousticModels, Any]


@pytest.fixture(scope="module")
def tts():
    return cosyjax.load(dtype="float32")  # rounded operands differ with the shapes of products


@pytest.fixture(scope="module")
def shipped(tts) -> Given:
    stages = tts.stages
    models = AcousticModels(stages.flow.model, stages.vocoder.model)
    return models, (stages.flow.params, stages.vocoder.params)


@pytest.fixture(scope="module")
def official() -> Given:
    """Flow and HiFT of the official sizes, with random weights and chunks from 5 tokens on.

    Four solver steps, not ten: with ten a row remembers 9 MB a token, and 24 GB are too few.
    """
    config = flow.FlowConfig(mask_chunk=5, num_steps=4)
    params = draw_params(flow.init_params, config, 0)
    params, config = prepare_for_synthesis(params, config)
    generator = hift.HiFTConfig()
    folded, generator = vocoder.fold_weight_norm(tiny_stream.vocoder_params(generator), generator)
    models = AcousticModels(flow.FlowMatching(config), vocoder.make_vocoder(generator))
    return models, (params, folded)


@functools.cache
def _sound_of(models: AcousticModels, num: int) -> np.ndarray:
    """The mel of a prompt: noise of the level and the slope of speech."""
    shape = (2 * num, models.flow.config.estimator.num_mels)
    slope = np.linspace(-3.0, -7.0, shape[1])
    return np.float32(slope + np.random.default_rng(num).standard_normal(shape))


def begun(models: AcousticModels, num_prompt: int, num_tokens: int, row: int = 0) -> tuple:
    """Arguments of `Stream.join` and `tiny_stream.whole`."""
    given = tiny_stream.voice(num_prompt, seed=row, flow=models.flow.config)
    given = dataclasses.replace(given, flow_mel=_sound_of(models, num_prompt))
    return given, tokens(num_tokens, seed=row, flow=models.flow.config), KEYS[row]


WHOLES: dict[Any, tiny_stream.Heard] = {}


def whole(speaker: Given, num_prompt: int, num_tokens: int, row: int = 0) -> tiny_stream.Heard:
    """What is said at once; kept, as many streams are compared with it."""
    name = (speaker[0], num_prompt, num_tokens, row)
    if name not in WHOLES:
        given = begun(speaker[0], num_prompt, num_tokens, row)
        WHOLES[name] = tiny_stream.whole(*given, models=speaker[0], params=speaker[1])
    return WHOLES[name]


def check(speaker: Given, rows: list[tuple[int, int]], *chunks: int) -> None:
    """Streams rows of (tokens of the prompt, tokens of the speech); each equals its whole."""
    longest = max(num_prompt + num_tokens for num_prompt, num_tokens in rows)
    stream = Stream(len(rows), -(-longest // 100) * 100, speaker[0], params=speaker[1])
    for row, (num_prompt, num_tokens) in enumerate(rows):
        stream.join(row, *begun(speaker[0], num_prompt, num_tokens, row))
    for row, heard in enumerate(stream.run(*chunks)):
        assert_same(heard, whole(speaker, *rows[row], row))


@pytest.mark.slow
@pytest.mark.parametrize("num_prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("first", [5, 15])
@pytest.mark.parametrize("chunk", [5, 15, 25, 50])
def test_the_shipped_model_streams_what_it_says_whole(shipped, chunk, first, num_prompt) -> None:
    check(shipped, [(num_prompt, ENDS[0])], first, chunk)


@pytest.mark.slow
@pytest.mark.parametrize("first", [5, 15])
@pytest.mark.parametrize("chunk", [5, 15, 25, 50])
def test_four_rows_of_the_shipped_model_stream_what_each_says_whole(shipped, chunk, first) -> None:
    check(shipped, list(zip([75, 0, 250, 13], ENDS, strict=True)), first, chunk)


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_prompt, first, chunk", [(0, 5, 5), (75, 15, 25), (75, 5, 50), (250, 5, 15), (250, 15, 25)]
)
def test_official_sizes_stream_what_they_say_whole(official, num_prompt, first, chunk) -> None:
    check(official, [(num_prompt, ENDS[0])], first, chunk)


@pytest.mark.slow
def test_four_rows_of_official_sizes_stream_what_each_says_whole(official) -> None:
    check(official, list(zip([75, 0, 25, 13], ENDS, strict=True)), 5, 25)


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
