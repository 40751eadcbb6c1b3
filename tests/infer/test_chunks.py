"""Decoding in pieces draws the tokens of decoding at once, and its audio follows on."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from cosyjax.infer import chunks, speak
from cosyjax.infer.speak import SynthesisConfig
from cosyjax.infer.stages import Stages

LENGTHS = SynthesisConfig(
    min_tokens_per_text_token=20.0, max_tokens_per_text_token=20.0, num_steps=1, max_retries=0
)
KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def request_(tiny_tts, prompt_wav):
    conditions = tiny_tts.conditions(tiny_tts.clone(prompt_wav, "A gliding tone."))
    text = np.asarray(tiny_tts.tokenizer.encode("Hello."), np.int32)
    return text, conditions, KEY, tiny_tts.bundle.config.sampling, LENGTHS


def test_tokens_drawn_in_pieces_equal_tokens_drawn_at_once(tiny_tts, request_) -> None:
    whole = speak.text_to_tokens(tiny_tts.stages, *request_)
    pieces = list(chunks.decode_pieces(tiny_tts.stages, *request_))
    assert len(whole) > chunks.TOKENS_PER_CALL and len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.slow
def test_chunks_of_audio_have_the_length_of_the_whole(tiny_tts, request_) -> None:
    _, conditions, key, _, _ = request_
    tokens = np.arange(60, dtype=np.int32) % 27
    noise = tiny_tts.bundle.noise
    made = list(chunks.tokens_to_chunks(tiny_tts.stages, [tokens], conditions, key, noise, LENGTHS))
    whole = chunks.tokens_to_wav(tiny_tts.stages, tokens, conditions, key, noise, config=LENGTHS)
    assert len(made) > 1
    assert sum(map(len, made)) == len(whole) == 960 * len(tokens)


def test_no_tokens_give_no_audio_and_ask_no_model(request_) -> None:
    silence = chunks.tokens_to_wav(Stages(), speak.NO_TOKENS, request_[1], KEY, None)
    assert silence.shape == (0,)
