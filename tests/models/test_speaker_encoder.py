"""The CAM++ speaker encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.convert.mapping import flatten
from cosyjax.convert.parity import fixture, runner, speaker
from cosyjax.errors import InputError
from cosyjax.layers import campplus
from cosyjax.models import speaker_encoder
from cosyjax.models.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from tests import contracts

TINY = SpeakerEncoderConfig(
    num_mels=8,
    embed_dim=6,
    head_dim=4,
    head_blocks=(1, 1),
    init_dim=8,
    growth=4,
    bottleneck=6,
    num_layers=(2, 1),
    dilations=(1, 2),
    segment_frames=5,
)
F = 46  # 23 frames after the stride: segments of 5, 5, 5, 5 and 3


@pytest.fixture(scope="module")
def params():
    """Random parameters with random running statistics."""
    tree = speaker_encoder.init_params(TINY, jax.random.key(0))
    random = np.random.default_rng(1)

    def moved(x):  # norms and biases; kernels are random already
        return x + 0.3 * np.abs(random.standard_normal(x.shape, np.float32)) * (x.ndim == 1)

    return jax.tree.map(moved, tree)


@pytest.fixture(scope="module")
def embed(params):
    apply = jax.jit(SpeakerEncoder(TINY).apply)
    return lambda x, lengths=None: apply({"params": params}, x, lengths)


@pytest.fixture(scope="module")
def train(params):
    apply = jax.jit(functools.partial(SpeakerEncoder(TINY).apply, train=True))
    return lambda x, lengths: apply({"params": params}, x, lengths)


def _features(batch=3, seed=2):
    return jax.random.normal(jax.random.key(seed), (batch, F, TINY.num_mels))


@pytest.mark.parametrize("name", ["fbank_campplus", "campplus_small"])
def test_embeddings_equal_the_golden_files(golden, name):
    loaded = fixture.load_fixture(golden / f"{name}.json", runner.manifest_keys)
    rows = list(runner._rows(loaded, speaker.FIXTURES[name]))
    assert rows and [row for row in rows if row.verdict != "ok"] == []


def test_the_official_size_has_the_official_number_of_parameters():
    official = SpeakerEncoderConfig()
    init = functools.partial(speaker_encoder.init_params, official)
    flat = flatten(jax.eval_shape(init, jax.random.key(0)))
    running = sum(x.size for k, x in flat.items() if k.endswith((".mean", ".var")))
    assert sum(x.size for x in flat.values()) - running == 6_848_544


def test_the_config_survives_a_dictionary():
    assert configs.from_dict(SpeakerEncoderConfig, configs.to_dict(TINY)) == TINY


@pytest.mark.parametrize(
    "wrong", [{"num_mels": 81}, {"dilations": (1,)}, {"growth": 0}, {"compute": "int8"}]
)
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(TINY, **wrong)


def test_padding_is_inert_and_rows_do_not_talk(embed):
    def fn(x, lengths):  # the contract wants frames: the embedding stands for each
        return jnp.repeat(embed(x, lengths)[:, None], x.shape[1], axis=1)

    contracts.assert_padding_inert(fn, _features(), (46, 31, 12))


def test_folding_the_norms_changes_no_embedding(params, embed):
    folded, config = speaker_encoder.fold_batch_norm(params, TINY)
    assert config.folded and not any("norm" in k for k in flatten(folded["head"]))
    again, _ = speaker_encoder.fold_batch_norm(folded, config)
    got = jax.jit(SpeakerEncoder(config).apply)({"params": again}, _features())
    np.testing.assert_allclose(got, embed(_features()), atol=1e-5)


def test_split_operands_stay_near_float32(params, embed):
    model = SpeakerEncoder(dataclasses.replace(TINY, compute="bfloat16x3"))
    got = jax.jit(model.apply)({"params": params}, _features())
    wanted = embed(_features())
    np.testing.assert_allclose(got, wanted, atol=2e-4 * float(jnp.std(wanted)))


def test_a_training_step_returns_the_statistics_it_used(params, train):
    _, statistics = train(_features(), jnp.array([46, 31, 12]))
    norms = [k for k in flatten(params) if k.endswith(".mean")]
    assert len(statistics) == len(norms)
    moved = speaker_encoder.update_statistics(params, statistics, momentum=1.0)
    wanted = statistics["tdnn/norm"]["var"]
    np.testing.assert_array_equal(moved["tdnn"]["norm"]["var"], wanted)
    np.testing.assert_array_equal(moved["tdnn"]["norm"]["scale"], params["tdnn"]["norm"]["scale"])


def test_statistics_of_the_batch_ignore_padding(train):
    x, lengths = _features(), jnp.array([46, 31, 12])
    valid = (jnp.arange(F) < lengths[:, None])[..., None]
    zeros = train(jnp.where(valid, x, 0.0), lengths)
    poison = train(jnp.where(valid, x, jnp.nan), lengths)
    jax.tree.map(np.testing.assert_array_equal, poison, zeros)


def test_gradients_are_finite_even_where_a_channel_never_fires(params):
    loss = lambda p: jnp.sum(SpeakerEncoder(TINY).apply({"params": p}, _features()))
    dead = jax.tree.map(jnp.asarray, params) | {
        "out_norm": params["out_norm"] | {"bias": jnp.full(6, -1e3)}
    }
    grads = jax.jit(jax.grad(loss))(dead)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_the_last_segment_is_averaged_over_its_own_frames():
    x = jnp.array([[1.0, 3.0, 5.0, 7.0, 100.0, 0.0]])[..., None]
    mask = (jnp.arange(6) < 5)[None, :, None]
    context = campplus.segment_context(x, mask, 2)
    mean = 116 / 5
    np.testing.assert_allclose(context[0, :, 0], [mean + 2, mean + 6, mean + 100], rtol=1e-6)


def test_the_deviation_is_unbiased_and_has_no_epsilon():
    x = jax.random.normal(jax.random.key(3), (1, 7, 4))
    pooled = speaker_encoder.pool_statistics(x, jnp.ones((1, 7, 1), bool))
    np.testing.assert_allclose(pooled[0, 4:], np.std(np.asarray(x[0]), axis=0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2])
def test_shifting_the_products_equals_a_dilated_convolution(dilation):
    x = jax.random.normal(jax.random.key(4), (2, 9, 3))
    kernel = jax.random.normal(jax.random.key(5), (3, 3, 4))
    got = campplus.centred_conv(x, kernel, dilation, "float32")
    wanted = jax.lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        ((dilation, dilation),),
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    np.testing.assert_allclose(got, wanted, atol=1e-5)
