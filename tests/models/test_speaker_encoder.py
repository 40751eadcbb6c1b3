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
from tests.drawn import normal

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
    tree = jax.eval_shape(lambda: speaker_encoder.init_params(TINY, jax.random.key(0)))
    random = np.random.default_rng(1)

    def draw(path, leaf):
        x = random.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return x / np.sqrt(np.prod(leaf.shape[:-1], dtype=np.float32))
        return np.float32(path[-1].key in ("scale", "var")) + np.float32(0.3) * np.abs(x)

    return jax.tree_util.tree_map_with_path(draw, tree)


@pytest.fixture(scope="module")
def embed(params):
    apply = jax.jit(SpeakerEncoder(TINY).apply)
    return lambda x, lengths=None: apply({"params": params}, x, lengths)


@pytest.fixture(scope="module")
def train(params):
    apply = jax.jit(functools.partial(SpeakerEncoder(TINY).apply, train=True))
    return lambda x, lengths: apply({"params": params}, x, lengths)


def _features(batch=3, seed=2):
    return normal(batch, F, TINY.num_mels, seed=seed)


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
        return np.repeat(np.asarray(embed(x, lengths))[:, None], x.shape[1], axis=1)

    contracts.assert_padding_inert(fn, _features(), (F, 31, F))


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
    np.testing.assert_allclose(got, wanted, atol=2e-4 * float(np.std(wanted)))


def test_a_training_step_returns_the_statistics_it_used(params, train):
    _, statistics = train(_features(), np.array([46, 31, 12]))
    norms = [k for k in flatten(params) if k.endswith(".mean")]
    assert len(statistics) == len(norms)
    moved = speaker_encoder.update_statistics(params, statistics, momentum=1.0)
    wanted = statistics["tdnn/norm"]["var"]
    np.testing.assert_array_equal(moved["tdnn"]["norm"]["var"], wanted)
    np.testing.assert_array_equal(moved["tdnn"]["norm"]["scale"], params["tdnn"]["norm"]["scale"])


def test_statistics_of_the_batch_ignore_padding(train):
    x, lengths = _features(), np.array([46, 31, 12])
    valid = (np.arange(F) < lengths[:, None])[..., None]
    zeros = train(np.where(valid, x, np.float32(0.0)), lengths)
    poison = train(np.where(valid, x, np.float32(np.nan)), lengths)
    jax.tree.map(np.testing.assert_array_equal, poison, zeros)


def test_gradients_are_finite_even_where_a_channel_never_fires(params):
    loss = lambda p: jnp.sum(SpeakerEncoder(TINY).apply({"params": p}, _features()))
    bias = np.full(6, -1e3, np.float32)
    dead = params | {"out_norm": params["out_norm"] | {"bias": bias}}
    grads = jax.jit(jax.grad(loss))(dead)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_the_last_segment_is_averaged_over_its_own_frames():
    x = np.array([[1.0, 3.0, 5.0, 7.0, 100.0, 0.0]], np.float32)[..., None]
    mask = (np.arange(6) < 5)[None, :, None]
    context = jax.jit(campplus.segment_context, static_argnums=2)(x, mask, 2)
    mean = 116 / 5
    np.testing.assert_allclose(
        np.asarray(context)[0, :, 0], [mean + 2, mean + 6, mean + 100], rtol=1e-6
    )


def test_the_deviation_is_unbiased_and_has_no_epsilon():
    x = normal(1, 7, 4)
    pooled = jax.jit(speaker_encoder.pool_statistics)(x, np.ones((1, 7, 1), bool))
    wanted = np.std(x[0], axis=0, ddof=1)
    np.testing.assert_allclose(np.asarray(pooled)[0, 4:], wanted, rtol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2])
def test_shifting_the_products_equals_a_dilated_convolution(dilation):
    x, kernel = normal(2, 9, 3), normal(3, 3, 4, seed=1)
    run = jax.jit(campplus.centred_conv, static_argnums=(2, 3))
    padded = np.pad(x, ((0, 0), (dilation, dilation), (0, 0)))
    taps = [padded[:, k * dilation : k * dilation + 9] @ kernel[k] for k in range(3)]
    np.testing.assert_allclose(run(x, kernel, dilation, "float32"), sum(taps), atol=1e-5)
