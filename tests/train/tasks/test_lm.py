"""The language model as a stage: packing, targets, over-fitting, export."""

import dataclasses

import jax
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.infer.modules import parameter_shapes
from cosyjax.layers import stacking
from cosyjax.layers.attention import Span
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from cosyjax.ops.interleave import SPEECH, Layout
from cosyjax.train.tasks.lm import GROUP, LMTask, corrupt_speech
from tests.products import matrix_products
from tests.train.tasks.tiny_lm import TINY, draw, fit, pack, sequence

TASK = LMTask(TINY)
KEY = jax.random.key(0)
PARTS = [sequence(1, 4, 9), sequence(2, 3, 8, True), sequence(3, 2, 5)]
PACKED = pack([PARTS[:2], PARTS[2:]], 33)
LOSS = jax.jit(TASK.loss)


@pytest.fixture(scope="module")
def params():
    return draw(TASK)


def test_a_packed_row_costs_what_its_sequences_cost_alone(params):
    loss, metrics = LOSS(params, PACKED, KEY)
    # On rows as long as the packed ones, so that one program serves all.
    alone = [LOSS(params, pack([[one], []], 33), KEY) for one in PARTS]
    weights = [float(m["weight"]) for _, m in alone]
    total = sum(float(one) * weight for (one, _), weight in zip(alone, weights))
    assert (
        float(metrics["weight"])
        == sum(weights)
        == sum(p["targets"].size for p in PARTS) - sum(int(np.sum(p["targets"] < 0)) for p in PARTS)
    )
    np.testing.assert_allclose(float(loss) * sum(weights), total, rtol=2e-6)


def test_packed_sequences_do_not_see_each_other(params):
    # The second one's loss has no gradient in the rows of the table that the first alone reads.
    row = pack([[PARTS[0], PARTS[1]]], 33)
    mine = np.where(row["segment_ids"] == 2, row["targets"], -1)
    grads = jax.jit(jax.grad(lambda p: TASK.loss(p, row | {"targets": mine}, KEY)[0]))(params)
    table = np.asarray(grads[GROUP]["text_embedding"]["embedding"])
    first, second = (set(p["ids"][p["kinds"] == 1].tolist()) for p in PARTS[:2])
    assert first - second and np.all(table[list(first - second)] == 0)
    assert np.all(np.any(table[list(second)] != 0, axis=1))


def test_a_masked_target_leaves_the_loss_bit_equal_and_another_one_does_not(params):
    before = float(LOSS(params, PACKED, KEY)[0])
    other = PACKED["ids"].copy()
    other[PACKED["segment_ids"] == 0] = 7  # the padding holds anything
    assert float(LOSS(params, PACKED | {"ids": other}, KEY)[0]) == before
    learned = np.argwhere(PACKED["targets"] >= 0)[0]
    moved = PACKED["targets"].copy()
    moved[tuple(learned)] = (moved[tuple(learned)] + 1) % 27
    assert float(LOSS(params, PACKED | {"targets": moved}, KEY)[0]) != before
    hidden = PACKED["targets"].copy()
    hidden[tuple(learned)] = -1
    assert float(LOSS(params, PACKED | {"targets": hidden}, KEY)[1]["weight"]) == float(
        LOSS(params, PACKED, KEY)[1]["weight"] - 1
    )


def test_logits_of_unlearned_positions_do_not_move_the_loss(params):
    row = pack([[PARTS[0]]], 33)
    row["segment_ids"][0, len(PARTS[0]["ids"]) :] = 2  # a second sequence without any target
    before = float(LOSS(params, row, KEY)[0])
    row["kinds"][0, -3:], row["ids"][0, -3:] = 2, 5
    assert float(LOSS(params, row, KEY)[0]) == before


def test_one_batch_over_fits(params):
    _, losses = fit(TASK, params, PACKED, 0.02, 150)
    assert losses[0] > 3.0 and losses[-1] < 0.05


def test_speech_dropout_changes_a_share_of_the_speech_and_nothing_else():
    batch = corrupt_speech(PACKED, KEY, 0.5, TINY.codebook_size)
    speech, changed = PACKED["kinds"] == SPEECH, np.asarray(batch["ids"] != PACKED["ids"])
    assert not changed[~speech].any()
    assert 0.2 < changed[speech].mean() < 0.8
    assert int(np.max(batch["ids"][speech])) < TINY.codebook_size
    assert all(batch[name] is PACKED[name] for name in PACKED if name != "ids")


def test_speech_dropout_is_for_training_alone(params):
    task = LMTask(TINY, speech_dropout=0.5)
    assert float(task.loss(params, PACKED, KEY)[0]) != float(TASK.loss(params, PACKED, KEY)[0])
    held_out = task.evaluate(params, PACKED, KEY), TASK.evaluate(params, PACKED, KEY)
    assert float(held_out[0]["loss"]) == float(held_out[1]["loss"])
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        LMTask(TINY, speech_dropout=1.0)


def test_held_out_metrics_have_no_smoothing(params):
    smooth = LMTask(TINY, smoothing=0.1)
    plain = LOSS(params, PACKED, KEY)[0]
    metrics = jax.jit(smooth.evaluate)(params, PACKED, KEY)
    assert float(metrics["loss"]) == float(plain)
    assert float(jax.jit(smooth.loss)(params, PACKED, KEY)[0]) != float(plain)


def position_nats(params, batch):
    """Nats of every position with a target, by the definition: [n], and the targets [n]."""
    layout = Layout(
        *(batch[name] for name in ("ids", "kinds", "targets")), np.full(2, 33, np.int32)
    )
    span = Span(segment_ids=batch["segment_ids"], positions=batch["positions"])
    logits = jax.jit(TextSpeechLM(TINY).apply)({"params": params[GROUP]}, layout, span)
    logps = np.asarray(jax.nn.log_softmax(logits), np.float64)
    there = batch["targets"] >= 0
    return -logps[there, batch["targets"][there]], batch["targets"][there]


@pytest.mark.parametrize("chunk", [0, 8])
def test_held_out_nats_are_those_of_speech_tokens_and_of_whole_pairs(params, chunk):
    metrics = jax.jit(LMTask(TINY, loss_chunk=chunk).evaluate)(params, PACKED, KEY)
    found = TASK.summarize({"sums": np.asarray(metrics["sums"])})
    nats, targets = position_nats(params, PACKED)
    speech = targets < TINY.codebook_size
    assert 3 < np.sum(~speech) < np.sum(speech)  # an end of each, and a fill of the bistream one
    np.testing.assert_allclose(found["loss_per_speech_token"], nats[speech].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["loss_per_pair"], nats.sum() / len(PARTS), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], nats.mean(), rtol=1e-5)


def test_counts_of_held_out_batches_add_up(params):
    # Two sequences and one: a mean over batches would weigh the single one twice.
    evaluate = jax.jit(TASK.evaluate)
    apart = [pack([rows, []], 33) for rows in (PARTS[:2], PARTS[2:])]
    sums = sum(np.asarray(evaluate(params, rows, KEY)["sums"]) for rows in apart)
    whole = TASK.summarize({"sums": np.asarray(evaluate(params, PACKED, KEY)["sums"])})
    found = TASK.summarize({"sums": sums})
    assert found.keys() == whole.keys() == {"loss_per_speech_token", "loss_per_pair"}
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
    assert TASK.summarize({"sums": np.zeros(4)}) == {}


@pytest.mark.parametrize("chunk", [0, 8])
def test_held_out_counts_do_not_depend_on_the_mesh(params, chunk):
    task, mesh = LMTask(TINY, loss_chunk=chunk), sharding.make_mesh(2, 2, 2)
    batch = pack([[part] for part in PARTS] + [[]], 33)
    rows = jax.device_put(batch, sharding.batch_sharding(mesh))
    boxes = jax.eval_shape(task.init, KEY)
    placed = jax.device_put(params, sharding.param_shardings(boxes, sharding.DEFAULT_RULES, mesh))
    evaluate = sharding.placed(task.evaluate, mesh, sharding.DEFAULT_RULES)
    found = jax.jit(evaluate)(placed, rows, KEY)["sums"]
    np.testing.assert_allclose(found, TASK.evaluate(params, batch, KEY)["sums"], rtol=1e-5)


def test_an_exported_model_has_the_trees_of_a_bundle(params):
    found, trees = TASK.modules(params)
    config = found["text_speech_lm"]
    assert config == dataclasses.replace(TINY, scan_layers=False)
    flat = jax.tree_util.tree_leaves_with_path(trees["text_speech_lm"])
    given = {".".join(e.key for e in path): leaf.shape for path, leaf in flat}
    assert given == parameter_shapes("text_speech_lm", config)
    back = stacking.stack_layers(trees["text_speech_lm"])
    jax.tree.map(np.testing.assert_array_equal, back, params[GROUP])


def test_every_parameter_has_names_for_its_axes():
    for leaf in jax.tree.leaves(
        jax.eval_shape(TASK.init, KEY), is_leaf=lambda x: hasattr(x, "names")
    ):
        assert len(leaf.names) == leaf.value.ndim


def test_cost_is_three_forward_passes():
    cost = TASK.cost({name: (4, 33) for name in PACKED})
    assert cost.tokens == 132 and cost.flops == 3 * 132 * TINY.flops_per_token(17)
    assert 4.0 < cost.audio_s < 132 / 25


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_bfloat16_training_has_no_float32_product(remat):
    model = dataclasses.replace(TINY, compute="bfloat16", remat=remat)
    task = LMTask(model)
    shapes = jax.eval_shape(lambda: draw(task))
    loss = lambda params: task.loss(params, PACKED, KEY)[0]
    jaxpr = jax.make_jaxpr(jax.grad(loss))(shapes)
    products = [types for types, _ in matrix_products(jaxpr.jaxpr)]
    # Per block 9 forward (3 qkv, 2 attention, out, 3 mlp) and twice as many backward; the head.
    # The last product of a block is not needed again.
    again = {"none": 0, "dots": 2, "full": 8}[remat]
    assert set(products) == {("bfloat16", "bfloat16")} and len(products) == 27 + 3 + again


def test_the_config_survives_a_round_trip():
    task = LMTask(TINY, smoothing=0.1)
    assert configs.from_dict(LMTask, configs.to_dict(task)) == task
    with pytest.raises(InputError, match="fused"):
        LMTask(TextSpeechLMConfig(fused=True))


def test_attention_by_head_and_a_loss_by_chunks_change_no_gradient(params):
    task = LMTask(dataclasses.replace(TINY, attention="by_head"), loss_chunk=8)
    run = lambda task: jax.jit(jax.grad(lambda tree: task.loss(tree, PACKED, KEY)[0]))(params)
    for got, wanted in zip(*(jax.tree.leaves(run(t)) for t in (task, LMTask(TINY))), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert task.exported == LMTask(TINY).exported
