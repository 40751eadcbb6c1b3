import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.models.hift import HiFT, HiFTConfig, fold_weight_norm, init_params
from tests.contracts import assert_padding_inert
from tests.drawn import normal

SMALL = HiFTConfig(
    num_mels=6,
    base_channels=16,
    upsample_rates=(4, 3),
    upsample_widths=(8, 7),
    f0_channels=8,
    f0_layers=1,
    block_widths=(3, 5),
    block_dilations=((2,),) * 2,
    source_block_widths=(3, 5),
    source_block_dilations=((1,),) * 2,
    num_harmonics=2,
)
FRAMES, SAMPLES = 5, 48


def drawn(config):
    """Parameters that are all alive; F0 lies where sines are."""
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    stream = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(0.3 + 0.3 * stream.standard_normal(leaf.shape)), tree
    )
    params["f0_predictor"]["output"]["bias"] = np.float32([150.0])
    # Near one another and at small magnitudes: a clipped wav would hide every difference.
    params["last"]["scale"] *= np.float32(0.05)
    params["last"]["bias"] -= np.float32(4.0)
    return params


@pytest.fixture(scope="module")
def params():
    return drawn(SMALL)


@pytest.fixture(scope="module")
def mel():
    return normal(2, FRAMES, SMALL.num_mels)


@pytest.fixture(scope="module")
def noise():
    return normal(1, FRAMES * SAMPLES, SMALL.num_harmonics + 1, seed=1)


@pytest.fixture(scope="module")
def speak(params):
    """(mel, lengths, noise, cached source) -> (wav, source), compiled once per shape."""
    run = jax.jit(lambda *args: HiFT(SMALL).apply({"params": params}, *args, method="speak"))
    return lambda *args: jax.device_get(run(*args))


def test_official_size_has_the_official_number_of_parameters():
    tree = jax.eval_shape(lambda: init_params(HiFTConfig(), jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == 20_821_295


def test_config_survives_the_way_to_json():
    assert configs.from_dict(HiFTConfig, configs.to_dict(SMALL)) == SMALL


def test_the_drawn_wav_is_alive_and_not_clipped(speak, mel, noise):
    wav = np.asarray(speak(mel, None, noise)[0])
    assert wav.shape == (2, FRAMES * SAMPLES)
    assert np.std(wav) > 1e-3 and np.mean(np.abs(wav) > 0.98) < 0.05


def test_padding_changes_no_sample(speak, mel, noise):
    run = lambda mel, lengths: speak(mel, lengths, noise[:, : mel.shape[1] * SAMPLES])[0]
    assert_padding_inert(run, mel, [3, FRAMES], ratio=SAMPLES)


def test_full_rows_need_no_lengths(speak, mel, noise):
    masked = speak(mel, np.array([FRAMES, FRAMES]), noise)[0]
    np.testing.assert_allclose(speak(mel, None, noise)[0], masked, atol=1e-6)


def test_samples_beyond_the_end_are_zero(speak, mel, noise):
    wav = np.asarray(speak(mel, np.array([2, 5]), noise)[0])
    assert np.all(wav[0, 2 * SAMPLES :] == 0) and np.all(wav[1, -8:] != 0)


def test_cached_source_overwrites_the_start(speak, params, mel, noise):
    wav, excitation = speak(mel, None, noise, np.full((2, 70), 0.25, np.float32))
    assert np.all(np.asarray(excitation[:, :70]) == 0.25)
    np.testing.assert_array_equal(excitation[:, 70:], speak(mel, None, noise)[1][:, 70:])
    decode = jax.jit(lambda *args: HiFT(SMALL).apply({"params": params}, *args, method="decode"))
    np.testing.assert_allclose(wav, decode(mel, excitation), atol=1e-6)


def test_folding_keeps_the_wav(speak, params, mel, noise):
    folded, config = fold_weight_norm(params, SMALL)
    assert config.kernels != "normed" and fold_weight_norm(folded, config) == (folded, config)
    got = jax.jit(HiFT(config).apply)({"params": folded}, mel, None, noise)
    np.testing.assert_allclose(got, speak(mel, None, noise)[0], atol=1e-5)


def test_source_passes_no_gradient_to_f0(params):
    f0 = np.float32([[120.0, 200.0]])
    run = lambda f0: jnp.sum(HiFT(SMALL).apply({"params": params}, f0, method="source"))
    assert np.all(np.asarray(jax.jit(jax.grad(run))(f0)) == 0)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"upsample_widths": (8,)}, "entries"),
        ({"upsample_widths": (8, 6)}, "even number"),
        ({"block_widths": (3, 4)}, "odd"),
        ({"base_channels": 18}, "divide"),
        ({"hop": 5}, "multiple"),
        ({"compute": "float16"}, "allowed"),
        ({"kernels": "tiled", "compute": "bfloat16"}, "fold"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(SMALL, **wrong)
