"""The tokenizer's stage: it learns, padding is inert, and what it hands over fits a bundle."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.config import from_dict, to_dict
from cosyjax.errors import InputError
from cosyjax.infer.modules import parameter_shapes
from cosyjax.models.asr_head import ASRHeadConfig
from cosyjax.models.mel_probe import MelProbeConfig
from cosyjax.models.speech_tokenizer import SpeechTokenizerConfig
from cosyjax.train.tasks.tokenizer import GROUP, PROBE, TokenizerTask
from tests.train.tasks.overfit import overfit

HEAD = ASRHeadConfig(
    embed_dim=16,
    num_heads=2,
    mlp_dim=32,
    num_encoder_layers=0,
    num_decoder_layers=1,
    vocab_size=11,
    start_token=9,
    end_token=10,
    fsmn_width=3,
)
MODEL = SpeechTokenizerConfig(
    embed_dim=16,
    num_heads=2,
    num_layers=1,
    mlp_dim=32,
    fsmn_width=3,
    num_code_dims=3,
    num_vectors=20,
    normalise=True,
    asr=HEAD,
)
TASK = TokenizerTask(MODEL, balance_weight=0.1, dither=0.5)
QUANTIZERS = {
    "fsq": TASK,
    "vq": TokenizerTask(dataclasses.replace(MODEL, quantizer="vq")),
    "none": TokenizerTask(dataclasses.replace(MODEL, quantizer="none")),
}
CTC = TokenizerTask(dataclasses.replace(MODEL, asr=dataclasses.replace(HEAD, ctc=True)))
N = 3200  # 20 frames, 5 tokens


def batch_of(poison=0.0):
    """Two tones with text and an empty row; `poison` fills what must not matter."""
    time = np.arange(N) / 16_000
    tones = np.sin(2 * np.pi * np.asarray([[200.0], [900.0], [400.0]]) * time)
    num_samples = np.asarray([N, 2000, 0], np.int32)
    valid = np.arange(N) < num_samples[:, None]
    text = np.asarray([[1, 2, 3], [4, 0, 0], [0, 0, 0]], np.int32)
    if poison:
        text = np.asarray([[1, 2, 3], [4, -1, 10**6], [8, 8, 8]], np.int32)
    return {
        "wav": jnp.asarray(np.where(valid, tones, poison), jnp.float32),
        "num_samples": jnp.asarray(num_samples),
        "text_tokens": jnp.asarray(text),
        "num_text": jnp.asarray([3, 1, 0], jnp.int32),
    }


SLOW = pytest.mark.slow  # a compilation per baseline


@pytest.fixture(
    scope="module",
    params=["fsq", pytest.param("vq", marks=SLOW), pytest.param("none", marks=SLOW)],
)
def stage(request):
    """(task, fresh parameters, compiled loss with gradient, compiled evaluation)."""
    task = QUANTIZERS[request.param]
    params = nn.meta.unbox(jax.jit(task.init)(jax.random.key(0)))
    loss = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return task, params, loss, jax.jit(task.evaluate)


@pytest.mark.slow
def test_one_batch_overfits(stage):
    task, params, *_ = stage
    _, history = overfit(task, batch_of(), 150, 1e-2, params)
    assert history[0][f"{GROUP}/loss_asr"] > 1.5
    assert history[-1][f"{GROUP}/loss_asr"] < 0.05 and history[-1][f"{GROUP}/accuracy"] == 1.0


def test_padding_and_empty_rows_move_neither_loss_nor_gradient(stage):
    _, params, loss, evaluate = stage
    key = jax.random.key(2)
    wanted, got = (loss(params, batch_of(poison), key) for poison in (0.0, np.nan))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    wanted, got = (evaluate(params, batch_of(poison), key) for poison in (0.0, np.nan))
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert float(got["num_targets"]) == 4 + 2  # each text and its end


def test_every_parameter_learns(stage):
    _, params, loss, _ = stage
    _, grads = loss(params, batch_of(), jax.random.key(2))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), name
        unused = jax.tree_util.keystr(path[-1:]) == "['embedding']" or np.any(leaf != 0)
        assert unused, f"{name} has no gradient"


def test_what_goes_into_a_bundle_has_the_shapes_of_its_config(stage):
    task, params, *_ = stage
    if task.model.quantizer == "none":
        with pytest.raises(InputError, match="no tokens"):
            task.modules(params)
        return
    configs, trees = task.modules(params)
    shapes = parameter_shapes(GROUP, configs[GROUP])
    flat = jax.tree_util.tree_leaves_with_path(trees[GROUP])
    got = {jax.tree_util.keystr(p, simple=True, separator="."): x.shape for p, x in flat}
    assert got == shapes and configs[GROUP].asr is None


def test_the_config_survives_json():
    assert from_dict(TokenizerTask, to_dict(TASK)) == TASK


def test_counts_of_batches_add_up_to_the_use_of_the_codebook():
    counts = np.zeros(27, np.int32)
    counts[:9] = 2
    summary = TASK.summarize({"code_counts": counts})
    np.testing.assert_allclose(summary["codebook_used"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(summary["code_perplexity"], 9, rtol=1e-5)
    np.testing.assert_allclose(summary["codebook_reachable"], 1 - (26 / 27) ** 18, rtol=1e-6)
    assert TASK.summarize({}) == {}


def test_an_evaluation_counts_each_token_of_speech_once(stage):
    task, params, _, evaluate = stage
    if task.model.quantizer == "none":
        return
    counts = evaluate(params, batch_of(), jax.random.key(0))["code_counts"]
    assert counts.shape == (task.model.codebook_size,) and int(jnp.sum(counts)) == 5 + 3


def test_a_longer_batch_costs_more():
    shapes = {"wav": (4, 16_000), "text_tokens": (4, 7)}
    cost = TASK.cost(shapes)
    assert cost.audio_s == 4.0 and cost.tokens == 4 * (25 + 8)
    assert cost.flops < TASK.cost({**shapes, "wav": (4, 32_000)}).flops


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": dataclasses.replace(MODEL, asr=None)},
        {"dither": -1.0},
        {"model": dataclasses.replace(MODEL, quantizer="vq")},  # with balance_weight
        {"restart_after": 5},  # without "vq"
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        dataclasses.replace(TASK, **wrong)


PROBED = TokenizerTask(
    dataclasses.replace(MODEL, asr=dataclasses.replace(HEAD, ctc=True)),
    probe=MelProbeConfig(embed_dim=8, num_layers=1, width=3),
)


@pytest.fixture(scope="module")
def probed():
    """Fresh parameters of a task with a probe."""
    return nn.meta.unbox(jax.jit(PROBED.init)(jax.random.key(0)))


def test_text_is_also_learnt_from_each_token_of_speech(probed):
    params = {GROUP: probed[GROUP]}
    grad = jax.jit(jax.value_and_grad(CTC.loss, has_aux=True))
    (loss, metrics), slope = grad(params, batch_of(), jax.random.key(1))
    (poisoned, _), _ = grad(params, batch_of(np.nan), jax.random.key(1))
    assert float(metrics["loss_ctc"]) > 0 and float(poisoned) == float(loss)
    np.testing.assert_allclose(loss, metrics["loss_asr"] + metrics["loss_ctc"], rtol=1e-6)
    assert np.any(slope[GROUP]["asr"]["ctc"]["kernel"] != 0)
    assert "ctc" not in CTC.modules(params)[1][GROUP]


def test_a_probe_changes_no_gradient_of_the_tokenizer(probed):
    own, key = probed[GROUP], jax.random.key(1)

    def alone(own):
        return CTC.loss({GROUP: own}, batch_of(), key)[0]

    def both(own):
        params = {**probed, GROUP: own}
        return alone(own) + PROBED.probe_loss(params, batch_of(), key)[0]

    wanted, got = jax.jit(lambda own: (jax.grad(alone)(own), jax.grad(both)(own)))(own)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_a_probe_learns_and_padding_does_not_move_it(probed):
    grad = jax.jit(jax.value_and_grad(PROBED.probe_loss, has_aux=True))
    (loss, metrics), slopes = grad(probed, batch_of(), jax.random.key(1))
    poisoned = grad(probed, batch_of(np.nan), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, poisoned, ((loss, metrics), slopes))
    assert float(metrics["num_frames"]) == 20 + 12 and float(loss) > 0
    assert all(np.any(slope != 0) for slope in jax.tree.leaves(slopes[PROBE]))
    assert not any(np.any(slope != 0) for slope in jax.tree.leaves(slopes[GROUP]))


def test_a_probe_is_a_group_with_its_own_turn_and_in_no_bundle(probed):
    assert [turn.group for turn in PROBED.turns()] == [PROBE, GROUP]
    assert [turn.group for turn in TASK.turns()] == [GROUP]
    assert set(probed) == {GROUP, PROBE} and set(PROBED.modules(probed)[1]) == {GROUP}
    assert from_dict(TokenizerTask, to_dict(PROBED)) == PROBED


def test_errors_of_batches_add_up():
    sums = {"ctc_edits": np.asarray([3, 12]), "mel_error": np.asarray([50.0, 10.0])}
    assert PROBED.summarize(sums) == {"ctc_error": 0.25, "probe_error_db": 5.0}


@pytest.mark.slow
def test_an_evaluation_counts_edits_and_frames_once(probed):
    found = jax.jit(PROBED.evaluate)(probed, batch_of(), jax.random.key(0))
    assert int(found["ctc_edits"][1]) == 3 + 1 and int(found["ctc_edits"][0]) >= 1
    poisoned = jax.jit(PROBED.evaluate)(probed, batch_of(np.nan), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, poisoned, found)
    assert float(found["mel_error"][1]) == 32


RESTARTED = dataclasses.replace(QUANTIZERS["vq"], restart_after=2)


def test_a_vector_that_nobody_chose_for_long_is_put_on_a_feature():
    tree = {"table": jnp.zeros((3, 2)), "table_ages": jnp.asarray([1.0, 1.0, 0.0])}
    metrics = {"code_counts": jnp.asarray([0, 4, 0]), "restarts": jnp.ones((3, 2))}
    tree = RESTARTED.finish(tree, metrics)
    assert tree["table"].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert tree["table_ages"].tolist() == [0, 0, 1]


def test_ages_of_vectors_stay_out_of_a_bundle():
    tree = {"table": 1, "table_ages": 2, "asr": 3}
    assert RESTARTED.modules({GROUP: tree})[1] == {GROUP: {"table": 1}}


@pytest.mark.slow
def test_a_tokenizer_with_restarts_overfits_and_uses_more_vectors():
    _, plain = overfit(QUANTIZERS["vq"], batch_of(), 20, 1e-2)
    params, restarted = overfit(RESTARTED, batch_of(), 20, 1e-2)
    name = f"{GROUP}/codebook_used"
    assert restarted[-1][name] > plain[-1][name]
    assert np.all(np.asarray(params[GROUP]["table_ages"]) < 2)
