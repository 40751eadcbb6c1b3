"""The speaker encoder's stage: it tells voices apart, and its norms follow the data."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import from_dict, to_dict
from cosyjax.errors import InputError
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.speaker_encoder import SpeakerEncoderConfig
from cosyjax.train.tasks.speaker import GROUP, SpeakerTask
from tests.train.tasks.overfit import overfit

MODEL = SpeakerEncoderConfig(
    embed_dim=8,
    head_dim=2,
    head_blocks=(1, 1),
    init_dim=8,
    growth=4,
    bottleneck=4,
    num_layers=(1,),
    dilations=(1,),
    segment_frames=5,
)
TASK = SpeakerTask(MODEL, num_speakers=3, scale=16.0)
N = 2400


def batch_of(padding=0.0):
    """Six tones of three speakers, and a row of padding."""
    time = np.arange(N) / 16_000
    pitch = np.asarray([200.0, 230.0, 700.0, 740.0, 2000.0, 2100.0, 0.0])[:, None]
    noise = np.random.default_rng(0).normal(size=(7, N), scale=0.01)
    wav = np.sin(2 * np.pi * pitch * time) + noise
    wav[6] = padding
    speaker = jnp.asarray([0, 0, 1, 1, 2, 2, 0])
    return {"wav": jnp.asarray(wav, jnp.float32), "speaker": speaker}


@pytest.fixture(scope="module")
def params():
    return nn.meta.unbox(jax.jit(TASK.init)(jax.random.key(0)))


@pytest.fixture(scope="module")
def trained(params):
    return overfit(TASK, batch_of(), 60, 1e-2, params)


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(TASK.evaluate)


@pytest.mark.slow
def test_one_batch_overfits(trained):
    _, history = trained
    assert history[0][f"{GROUP}/loss"] > 2.0 > 0.1 > history[-1][f"{GROUP}/loss"]
    assert history[-1][f"{GROUP}/accuracy"] == 1.0


@pytest.mark.slow
def test_the_running_statistics_serve_as_well_as_those_of_the_batch(trained, evaluate):
    after, history = trained
    metrics = evaluate(after, batch_of(), jax.random.key(0))
    assert float(metrics["accuracy"]) == 1.0
    np.testing.assert_allclose(metrics["loss"], history[-1][f"{GROUP}/loss"], atol=0.1)
    scores = {name: np.asarray(x) for name, x in metrics.items() if x.ndim}
    assert TASK.summarize(scores) == {"equal_error_rate": 0.0}


@pytest.mark.slow
def test_every_parameter_moves(params, trained):
    before = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    after = jax.tree.leaves(jax.device_get(trained[0]))
    for (path, old), new in zip(before, after, strict=True):
        assert np.all(np.isfinite(new)) and np.any(new != old), jax.tree_util.keystr(path)


def test_a_row_of_padding_moves_neither_loss_nor_statistics(params):
    run, batch = jax.jit(TASK.loss), batch_of()
    key = jax.random.key(0)
    loss, metrics = run(params, batch, key)
    assert int(metrics["num_targets"]) == 6
    other = run(params, {**batch, "speaker": batch["speaker"].at[6].set(1)}, key)
    jax.tree.map(np.testing.assert_array_equal, other, (loss, metrics))
    alone, found = run(params, {name: x[:6] for name, x in batch.items()}, key)
    np.testing.assert_allclose(alone, loss, rtol=1e-4)
    for name, value in found.items():
        np.testing.assert_allclose(value, metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_no_gradient_reaches_the_running_statistics(params):
    grads = jax.jit(jax.grad(TASK.loss, has_aux=True))(params, batch_of(), jax.random.key(0))[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.any(leaf) != (getattr(path[-1], "key", "") in ("mean", "var"))


def test_the_encoder_alone_goes_into_a_bundle(params):
    configs, trees = TASK.modules(params)
    flat = jax.tree_util.tree_leaves_with_path(trees[GROUP])
    got = {jax.tree_util.keystr(p, simple=True, separator="."): x.shape for p, x in flat}
    assert got == parameter_shapes(GROUP, configs[GROUP])


def test_the_config_survives_json():
    assert from_dict(SpeakerTask, to_dict(TASK)) == TASK


def test_twice_the_rows_cost_twice():
    one, two = (TASK.cost({"wav": (rows, 48_000), "speaker": (rows,)}) for rows in (1, 2))
    assert one.audio_s == 3.0 and one.tokens == 298 and two.flops == 2 * one.flops > 0


@pytest.mark.slow
def test_three_seconds_through_the_official_encoder_cost_the_published_products():
    # 1.72 G multiply-adds for 3 s, CAM++ (arXiv:2303.00332) table 2.
    cost = SpeakerTask().cost({"wav": (1, 48_000), "speaker": (1,)})
    np.testing.assert_allclose(cost.flops / 3 / 2, 1.72e9, rtol=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_speakers": 0},
        {"momentum": 0.0},
        {"model": dataclasses.replace(MODEL, folded=True)},
        {"model": dataclasses.replace(MODEL, num_mels=40)},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(TASK, **wrong)
