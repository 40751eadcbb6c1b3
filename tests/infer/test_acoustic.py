"""Whole utterances to mel: padding inert, look-ahead held back, seen mask chosen at run time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.infer.acoustic import prepare_for_synthesis, tokens_to_mel
from cosyjax.models.flow import FlowMatching
from tests.tiny_flow import MELS, TINY, tiny_params

MODEL = FlowMatching(TINY)
LENGTH = 8
TOKENS = jnp.array([[3, 1, 4, 1, 5, 8, 0, 0]])
NOISE = jax.random.normal(jax.random.key(1), (2 * LENGTH, MELS))
REQUEST = {
    "speech_tokens": TOKENS,
    "num_tokens": jnp.array([6]),
    "prompt_mel": jnp.zeros((1, 2 * LENGTH, MELS)).at[:, :4].set(1.0),
    "speaker_embedding": jax.random.normal(jax.random.key(2), (1, 5)),
    "noise": NOISE,
    "streaming": jnp.array(False),
    "finalize": jnp.array(True),
}


@pytest.fixture(scope="module")
def params() -> dict:
    return tiny_params()


def speak(params: dict, model: FlowMatching = MODEL, **changes) -> np.ndarray:
    return np.asarray(tokens_to_mel(model, params, **{**REQUEST, **changes}))


def test_what_lies_in_the_padding_changes_nothing(params: dict) -> None:
    poison = {
        "speech_tokens": TOKENS.at[:, 6:].set(7),
        "prompt_mel": REQUEST["prompt_mel"].at[:, 12:].set(jnp.nan),
        "noise": NOISE.at[12:].set(jnp.nan),
    }
    np.testing.assert_array_equal(speak(params), speak(params, **poison))
    assert np.all(speak(params)[:, 12:] == 0)


def test_tokens_that_are_held_back_are_seen_but_not_spoken(params: dict) -> None:
    held = speak(params, finalize=jnp.array(False))
    assert np.all(held[:, 6:] == 0) and np.any(held[:, 5] != 0)
    other = TOKENS.at[0, 3].set(0)
    moved = speak(params, finalize=jnp.array(False), speech_tokens=other)
    assert np.max(np.abs(held - moved)[:, :6]) > 1e-4


def test_while_streaming_mel_that_was_spoken_stays_as_more_tokens_come(params: dict) -> None:
    early = {"num_tokens": jnp.array([5]), "finalize": jnp.array(False)}
    before = speak(params, streaming=jnp.array(True), **early)[:, :4]
    after = speak(params, streaming=jnp.array(True))[:, :4]
    np.testing.assert_allclose(before, after, atol=2e-5)


def test_every_setting_runs_through_one_compiled_program(params: dict) -> None:
    tokens_to_mel.clear_cache()
    for flag in (False, True):
        speak(params, streaming=jnp.array(flag), finalize=jnp.array(not flag))
    assert tokens_to_mel._cache_size() == 1


def test_rounded_parameters_speak_the_same_bfloat16_mel(params: dict) -> None:
    model = FlowMatching(dataclasses.replace(TINY, compute="bfloat16"))
    plain = speak(params, model)
    prepared, config = prepare_for_synthesis(params, model.config)
    assert prepared["estimator"]["mid_0"]["blocks_0"]["qkv"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(plain, speak(prepared, FlowMatching(config)))
    assert np.max(np.abs(plain - speak(params))) < 0.2


def test_a_prompt_of_the_wrong_length_is_refused(params: dict) -> None:
    with pytest.raises(InputError, match="prompt_mel has shape"):
        speak(params, prompt_mel=jnp.zeros((1, LENGTH, MELS)))
