"""The language model: counts at full size, its cache, padding, and what the loss sees."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers import stacking
from cosyjax.losses.lm import cross_entropy
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig

TINY = TextSpeechLMConfig(
    2, 12, 4, 2, 4, 20, rope_theta=100.0, text_vocab_size=30, codebook_size=27, mix_ratio=(2, 4)
)
MODEL = TextSpeechLM(TINY)
PARAMS = jax.jit(lambda: text_speech_lm.init_params(TINY, jax.random.key(0)))()
TEXT = np.array([[3, 9, 4, 22], [8, 1, 0, 0]], np.int32)
SPEECH = np.random.default_rng(0).integers(0, 27, (2, 9), np.int32)
SIZES = np.array([4, 2], np.int32), np.array([9, 5], np.int32)
lay_out = jax.jit(text_speech_lm.lay_out, static_argnums=0)
LAYOUT = jax.device_get(lay_out(TINY, TEXT, SIZES[0], SPEECH, SIZES[1]))
LOGITS = jax.jit(lambda params, layout: MODEL.apply({"params": params}, layout))
STEP = jax.jit(lambda *a: MODEL.apply({"params": PARAMS}, *a, method="step"))
START = jax.jit(lambda: MODEL.apply({"params": PARAMS}, 2, 15, method="init_state"))
LOSS = jax.jit(cross_entropy)


def test_full_size_has_the_official_number_of_parameters():
    config = TextSpeechLMConfig()
    shapes = jax.eval_shape(lambda key: text_speech_lm.init_params(config, key), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 505_803_812
    assert config.num_params() == 505_803_812
    # 358 M parameters are multiplied at each position; the rest are tables, norms and biases.
    assert config.flops_per_token(0) == 2 * (24 * 14_909_440 + 896 * 6564)


def test_the_official_sizes_name_the_meshes_that_they_divide_over():
    init = lambda key: text_speech_lm.init_boxed(TextSpeechLMConfig(), key)
    shapes = jax.eval_shape(init, jax.random.key(0))

    def lay_out_on(*sizes):
        mesh = jax.sharding.AbstractMesh(sizes, sharding.MESH_AXES)
        sharding.param_shardings(shapes, sharding.DEFAULT_RULES, mesh)

    lay_out_on(2, 128, 1)
    lay_out_on(4, 16, 2)
    with pytest.raises(InputError, match=r"embed=896 .*'fsdp' of 256; .* be .*128, 224, 448, 896"):
        lay_out_on(1, 256, 1)
    with pytest.raises(InputError, match=r"vocab=6564 .*'tensor' of 8; .* be .*2188, 3282, 6564"):
        lay_out_on(1, 1, 8)


def test_the_config_survives_a_round_trip():
    assert configs.from_dict(TextSpeechLMConfig, configs.to_dict(TINY)) == TINY
    with pytest.raises(InputError, match="mix_ratio"):
        dataclasses.replace(TINY, mix_ratio=(0, 4))


@pytest.mark.parametrize("calls", [(4, 1, 1, 9), pytest.param((11, 4), marks=pytest.mark.slow)])
def test_steps_of_any_size_equal_the_whole(calls):
    whole = np.asarray(LOGITS(PARAMS, LAYOUT))
    state, start, parts = START(), 0, []
    for size in calls:
        lengths = np.clip(LAYOUT.lengths - start, 0, size)
        cut = slice(start, start + size)
        y, state = STEP(LAYOUT.ids[:, cut], LAYOUT.kinds[:, cut], lengths, state)
        parts.append(y)
        start += size
    got = np.concatenate(parts, axis=1)
    for row, length in enumerate(LAYOUT.lengths):
        np.testing.assert_allclose(got[row, :length], whole[row, :length], atol=2e-5)


def test_padding_is_inert_and_a_row_equals_itself_alone():
    whole = np.asarray(LOGITS(PARAMS, LAYOUT))
    beyond = np.arange(15) >= LAYOUT.lengths[:, None]
    other = LAYOUT._replace(
        ids=np.where(beyond, np.int32(5), LAYOUT.ids),
        kinds=np.where(beyond, np.int32(1), LAYOUT.kinds),
    )
    poisoned = np.asarray(LOGITS(PARAMS, other))
    length = int(LAYOUT.lengths[1])
    np.testing.assert_array_equal(poisoned[1, :length], whole[1, :length])
    alone = lay_out(TINY, TEXT[1:, :2], SIZES[0][1:], SPEECH[1:, :5], SIZES[1][1:])
    np.testing.assert_allclose(np.asarray(LOGITS(PARAMS, alone))[0], whole[1, :length], atol=2e-5)


def test_the_prediction_after_the_last_position_is_that_of_the_whole_call():
    arguments = (LAYOUT.ids, LAYOUT.kinds, LAYOUT.lengths, START())
    predict = lambda *a: MODEL.apply({"params": PARAMS}, *a, method="predict_next")
    got, whole = (np.asarray(x) for x in (jax.jit(predict)(*arguments)[0], LOGITS(PARAMS, LAYOUT)))
    for row, length in enumerate(LAYOUT.lengths):
        np.testing.assert_allclose(got[row], whole[row, length - 1], atol=2e-5)


@pytest.mark.parametrize("how", [{}, {"attention": "splash_interpret", "scan_layers": True}])
def test_a_prefill_is_a_step_from_the_empty_state(how):
    config = dataclasses.replace(TINY, **how)
    stacked = stacking.stack_layers if config.scan_layers else lambda tree: tree
    given = (LAYOUT.ids, LAYOUT.kinds, LAYOUT.lengths)
    prefill = lambda p: TextSpeechLM(config).apply({"params": stacked(p)}, *given, method="prefill")
    predict = lambda *a: MODEL.apply({"params": PARAMS}, *a, method="predict_next")
    start = jax.eval_shape(
        lambda: MODEL.apply({"params": PARAMS}, *given[0].shape, method="init_state")
    )
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), start)
    wanted, state = jax.jit(predict)(*given, start)
    logits, got = jax.jit(prefill)(PARAMS)
    np.testing.assert_allclose(logits, wanted, atol=2e-5)
    if config.scan_layers:
        state = jax.tree.map(lambda *leaves: np.stack(leaves), *state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_target_moves_the_loss_and_a_masked_one_does_not():
    logits, targets = np.array(LOGITS(PARAMS, LAYOUT)), LAYOUT.targets
    before, moved = float(LOSS(logits, targets).mean), targets.copy()
    moved[0, 5] = (targets[0, 5] + 1) % 27  # the first position after the text
    assert targets[0, 5] >= 0 and float(LOSS(logits, moved).mean) != before
    logits[:, 0] += np.arange(30.0)  # sos has no target
    assert float(LOSS(logits, targets).mean) == before


def test_gradients_reach_every_parameter_that_the_batch_uses():
    loss = lambda p: cross_entropy(MODEL.apply({"params": p}, LAYOUT), LAYOUT.targets).mean
    grads = jax.jit(jax.grad(loss))(PARAMS)
    # A bias on the keys shifts all scores of a query alike, up to the rotation.
    dead = [k for k, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g != 0)]
    assert not dead, dead
