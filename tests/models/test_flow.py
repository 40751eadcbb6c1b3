"""The flow: sizes, streaming equal to the whole call, padding, guidance, and refused calls."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as config_io
from cosyjax.errors import InputError
from cosyjax.models.estimator import Conditions
from cosyjax.models.flow import FlowConfig, FlowMatching, FlowTrainingConfig, init_params
from cosyjax.ops import masks, noise
from tests.drawn import normal
from tests.tiny_flow import MELS, TINY, tiny_params

AHEAD, PROMPT = 3, 2
MODEL = FlowMatching(TINY)
TOKENS = np.array([[3, 1, 4, 1, 5, 8, 2], [6, 5, 3, 0, 8, 7, 7]], np.int32)
NUM_TOKENS = np.array([7, 5], np.int32)
LENGTH = 8  # tokens, after padding to whole chunks
KEY = jax.random.key(11)
SPEAKERS = normal(2, 5)
NOISE = np.asarray(jax.jit(noise.frame_noise, static_argnums=2)(KEY, np.arange(2 * LENGTH), MELS))
PROMPT_MEL = normal(2, 2 * LENGTH, MELS, seed=1)
PROMPT_MEL[:, 2 * PROMPT :] = 0.0


@pytest.fixture(scope="module")
def params() -> dict:
    return tiny_params()


def pad(tokens: np.ndarray, length: int) -> np.ndarray:
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


@jax.jit
def whole(params: dict, number: jax.Array) -> jax.Array:
    variables = {"params": params}
    padded = pad(TOKENS, LENGTH)
    mu = MODEL.apply(variables, padded, NUM_TOKENS, kind=number, method="encode")
    speaker = MODEL.apply(variables, SPEAKERS, method="speaker")
    given = Conditions(mu, speaker, PROMPT_MEL)
    return MODEL.apply(variables, NOISE, given, 2 * NUM_TOKENS, kind=number, method="solve")


def speak_at_once(params: dict, kind: str = "chunk") -> np.ndarray:
    return np.asarray(whole(params, np.array(masks.kind_index(kind))))


begin = jax.jit(lambda variables: MODEL.apply(variables, 2, LENGTH, method="init_state"))
one_step = jax.jit(functools.partial(MODEL.apply, method="step"))


def speak_in_calls(params: dict, calls: tuple[int, ...]) -> tuple[np.ndarray, list]:
    variables = {"params": params}
    state = begin(variables)
    tokens, start, pieces, states = pad(TOKENS, LENGTH + AHEAD), 0, [], [state]
    for size in calls:
        stop, frames = start + size, slice(2 * start, 2 * (start + size))
        mel, state = one_step(
            variables,
            tokens[:, start:stop],
            state,
            tokens[:, stop : stop + AHEAD],
            speaker_embedding=SPEAKERS,
            prompt_mel=PROMPT_MEL[:, frames],
            noise=NOISE[frames],
            num_valid=np.clip(NUM_TOKENS - start, 0, size + AHEAD),
        )
        pieces.append(mel)
        states.append(state)
        start = stop
    return np.concatenate(pieces, axis=1), states


@pytest.mark.parametrize("calls", [(2, 2, 4), pytest.param((8,), marks=pytest.mark.slow)])
def test_mel_spoken_in_calls_equals_mel_spoken_at_once(params: dict, calls) -> None:
    streamed, _ = speak_in_calls(params, calls)
    np.testing.assert_allclose(streamed, speak_at_once(params), atol=5e-5)


def test_the_state_keeps_its_size(params: dict) -> None:
    _, states = speak_in_calls(params, (2, 2, 4))
    assert len({sum(leaf.nbytes for leaf in jax.tree.leaves(s)) for s in states}) == 1
    assert len({str(jax.tree.map(jnp.shape, s)) for s in states}) == 1


def test_the_chunk_mask_is_not_the_full_mask(params: dict) -> None:
    assert np.max(np.abs(speak_at_once(params) - speak_at_once(params, "full"))) > 1e-3


def test_guidance_of_zero_equals_the_conditional_velocity_alone(params: dict) -> None:
    variables = {"params": params}
    mu = PROMPT_MEL[:, :14] + 1.0
    given = Conditions(mu, SPEAKERS[:, :MELS], PROMPT_MEL[:, :14])
    start = np.broadcast_to(NOISE[: mu.shape[1]], mu.shape)
    frames = 2 * NUM_TOKENS
    options = {"num_steps": 1, "guidance_scale": 0.0, "method": "solve"}
    guided = jax.jit(lambda: MODEL.apply(variables, start, given, frames, **options))()
    inputs = (start, np.zeros(2, np.float32), given, frames)
    velocity = jax.jit(lambda: MODEL.apply(variables, *inputs, method="velocity"))()
    valid = (np.arange(mu.shape[1]) < frames[:, None])[..., None]
    np.testing.assert_allclose(guided, np.where(valid, start + velocity, 0), atol=1e-5)


def test_the_official_sizes_have_the_official_number_of_parameters() -> None:
    shapes = jax.eval_shape(lambda key: init_params(FlowConfig(), key), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 112_549_360


def test_the_config_survives_the_way_to_json_and_back() -> None:
    assert config_io.from_dict(FlowConfig, config_io.to_dict(TINY)) == TINY


def test_a_call_that_is_no_multiple_of_the_mask_chunk_is_refused(params: dict) -> None:
    with pytest.raises(InputError, match="multiple of mask_chunk=2"):
        speak_in_calls(params, (3,))


@pytest.mark.parametrize("name", ["masks", "prompt", "loss", "time_warp", "padding"])
def test_an_unknown_training_option_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}='offical'"):
        FlowTrainingConfig(**{name: "offical"})


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="num_heads=3"):
        dataclasses.replace(TINY.encoder, num_heads=3)


def test_stages_and_blocks_run_by_a_scan_are_the_same() -> None:
    estimator = dataclasses.replace(TINY.estimator, num_mid_stages=2, num_blocks=2)
    encoder = dataclasses.replace(TINY.encoder, num_layers=2, num_up_layers=2)
    config = dataclasses.replace(TINY, estimator=estimator, encoder=encoder)
    tree = jax.tree.map(jnp.asarray, tiny_params(config))
    t = np.array([0.3, 0.8], np.float32)

    def velocity(tree, scanned: bool):
        training = FlowTrainingConfig(remat="dots", scan_layers=scanned)
        model = FlowMatching(dataclasses.replace(config, training=training))
        given = pad(TOKENS, LENGTH), NUM_TOKENS, SPEAKERS, NOISE[None] + PROMPT_MEL, t
        out = model.apply({"params": tree}, *given)
        return jnp.sum(jnp.square(out)), out

    found, wanted = (
        jax.jit(jax.grad(functools.partial(velocity, scanned=scanned), has_aux=True))(tree)
        for scanned in (True, False)
    )
    # Against the largest of all: some gradients are zero but for rounding.
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale)
