"""The vocoder's stage: two turns, each of its own group, that bring speech nearer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.aot import hlo
from cosyjax.aot.collectives import collectives
from cosyjax.config import from_dict, to_dict
from cosyjax.errors import InputError
from cosyjax.infer.modules import parameter_shapes
from cosyjax.losses.gan import GanLossConfig
from cosyjax.models.discriminators import (
    DiscriminatorsConfig,
    MultiPeriodConfig,
    MultiResolutionConfig,
)
from cosyjax.models.hift import HiFTConfig
from cosyjax.train.tasks.vocoder import DISCRIMINATOR, GENERATOR, VocoderTask
from tests.train.tasks.overfit import overfit

MODEL = HiFTConfig(
    base_channels=8,
    upsample_rates=(30,),
    upsample_widths=(60,),
    block_widths=(3,),
    block_dilations=((1,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
    n_fft=32,
    hop=16,
    f0_channels=8,
    f0_layers=1,
    num_harmonics=1,
)
JUDGES = DiscriminatorsConfig(
    MultiPeriodConfig(periods=(3,), channels=(4, 4)),
    MultiResolutionConfig(resolutions=((128, 32, 128),), channels=4, num_strided=1),
)
TASK = VocoderTask(
    MODEL, JUDGES, GanLossConfig(f0_weight=0.05), source="recorded", initial_f0_hz=100.0
)
FRAMES = 4
STEPS = 250


def batch_of(volume=0.5):
    """A tone of 200 Hz, one of 300 Hz for half the time, and a row of padding."""
    time = np.arange(FRAMES * 480) / 24_000
    wav = volume * np.sin(2 * np.pi * np.asarray([[200.0], [300.0], [0.0]]) * time)
    f0 = np.repeat([[200.0], [300.0], [0.0]], FRAMES, axis=1)
    wav[1, FRAMES * 240 :] = f0[1, FRAMES // 2 :] = 0.0
    return {"wav": jnp.asarray(wav, jnp.float32), "f0": jnp.asarray(f0, jnp.float32)}


@pytest.fixture(scope="module")
def params():
    return nn.meta.unbox(jax.jit(TASK.init)(jax.random.key(0)))


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(TASK.evaluate)


@pytest.fixture(scope="module")
def trained(params):
    """Parameters and losses of some steps on one batch."""
    return overfit(TASK, batch_of(), STEPS, 3e-3, params)


@pytest.mark.slow
def test_one_batch_overfits(params, trained, evaluate):
    after, history = trained
    key = jax.random.key(7)
    start, end = (evaluate(p, batch_of(), key) for p in (params, after))
    assert float(end["loss"]) < 0.35 * float(start["loss"])
    assert float(end["f0_error"]) < 0.5 * float(start["f0_error"])
    assert history[-1][f"{GENERATOR}/loss_f0"] < 0.5 * history[0][f"{GENERATOR}/loss_f0"]


@pytest.mark.slow
def test_the_discriminators_move_first_and_learn(trained):
    assert [turn.group for turn in TASK.turns()] == [DISCRIMINATOR, GENERATOR]
    name = f"{DISCRIMINATOR}/loss_adversarial"
    assert trained[1][20][name] < trained[1][0][name]


@pytest.mark.slow
def test_every_parameter_of_both_groups_learns(params, trained):
    before = jax.tree_util.tree_leaves_with_path(jax.device_get(params))
    after = jax.tree.leaves(jax.device_get(trained[0]))
    for (path, old), new in zip(before, after, strict=True):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(new)) and np.any(new != old), name


def test_a_row_of_padding_counts_nothing_and_a_recording_does(params, evaluate):
    key, batch = jax.random.key(2), batch_of()
    wanted = evaluate(params, batch, key)
    got = evaluate(params, {**batch, "f0": batch["f0"].at[2].set(jnp.nan)}, key)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert int(got["num_frames"]) == 2 * FRAMES
    quieter = evaluate(params, batch_of(volume=0.4), key)
    assert float(quieter["loss"]) != float(got["loss"])


def test_the_noise_follows_the_key_and_differs_between_rows(params):
    wav = jnp.repeat(batch_of()["wav"][:1], 2, axis=0)
    speak = jax.jit(lambda key: TASK.speak(params, wav, key)[0])
    one, same, other = (np.asarray(speak(jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other) and np.any(one[0] != one[1])


def test_it_speaks_what_it_hears(params):
    found = TASK.samples(params, batch_of(), jax.random.key(0))
    assert [s.name for s in found] == [
        "recording_0",
        "resynthesis_0",
        "recording_1",
        "resynthesis_1",
    ]
    assert all(s.wav.shape == (FRAMES * 480,) and np.all(np.isfinite(s.wav)) for s in found)


def test_the_generator_alone_goes_into_a_bundle(params):
    configs, trees = TASK.modules(params)
    flat = jax.tree_util.tree_leaves_with_path(trees["vocoder"])
    got = {jax.tree_util.keystr(p, simple=True, separator="."): x.shape for p, x in flat}
    assert got == parameter_shapes("vocoder", configs["vocoder"])


def test_the_config_survives_json():
    assert from_dict(VocoderTask, to_dict(TASK)) == TASK


def test_the_official_sizes_cost_what_their_convolutions_do():
    cost = VocoderTask().cost({"wav": (2, 24_000), "f0": (2, 50)})
    assert cost.audio_s == 2.0 and cost.tokens == 100
    assert cost.flops == 2 * VocoderTask().cost({"wav": (1, 24_000), "f0": (1, 50)}).flops


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "heard"},
        {"initial_f0_hz": -1.0},
        {"model": dataclasses.replace(MODEL, num_mels=40)},
        {"model": dataclasses.replace(MODEL, kernels="plain")},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(TASK, **wrong)


def test_without_judges_there_is_one_turn_and_spectrograms_alone_teach():
    task = dataclasses.replace(TASK, adversarial=False)
    params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
    assert set(params) == {GENERATOR} and [turn.group for turn in task.turns()] == [GENERATOR]
    loss = jax.jit(lambda params: task.turns()[0].loss(params, batch_of(), jax.random.key(1)))
    found, metrics = loss(params)
    weights = task.losses
    wanted = weights.mel_weight * metrics["loss_mel"] + weights.f0_weight * metrics["loss_f0"]
    assert float(found) == pytest.approx(float(wanted))
    assert set(metrics) == {"loss_mel", "loss_f0"}
    shapes = {"wav": (3, FRAMES * 480)}
    assert task.cost(shapes).flops < TASK.cost(shapes).flops


def test_a_run_for_the_pitch_moves_nothing_else():
    task = dataclasses.replace(TASK, adversarial=False, pitch_only=True)
    params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
    loss = lambda params: task.turns()[0].loss(params, batch_of(), jax.random.key(1))[0]
    grads = jax.jit(jax.grad(loss))(params)[GENERATOR]
    moved = {name for name, tree in grads.items() if any(jnp.any(x) for x in jax.tree.leaves(tree))}
    assert moved == {"f0_predictor"}
    with pytest.raises(InputError, match="judges"):
        dataclasses.replace(TASK, pitch_only=True)


@pytest.mark.parametrize("turn", [0, 1], ids=["discriminators", "generator"])
def test_a_recording_is_judged_on_the_chip_that_has_it(params, turn: int) -> None:
    """Gathered are only transforms, which XLA does not cut on a CPU, and scores for a median."""
    mesh = sharding.make_mesh(2, 1, 1, jax.devices()[:2])
    place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    given = jax.tree.map(lambda x: place(x, whole), params)
    batch = {name: place(jnp.concatenate([x, x[:1]]), rows) for name, x in batch_of().items()}
    group, loss, _ = TASK.turns()[turn]

    def step(own, params, batch, key):
        return loss({**params, group: own}, batch, key)[0]

    gradients = sharding.placed(jax.grad(step), mesh, sharding.DEFAULT_RULES)
    step = jax.jit(gradients, out_shardings=whole).lower(
        given[group], given, batch, jax.random.key(0)
    )
    sent = collectives(hlo.parse(step.compile().as_text()), chips_per_slice=2)
    assert "all-reduce" in {one.kind for one in sent}
    gathered = [one.op_name for one in sent if one.kind != "all-reduce"]
    assert all("fft" in name or "sort" in name for name in gathered), gathered
    assert {one.kind for one in sent} <= {"all-reduce", "all-gather"}
