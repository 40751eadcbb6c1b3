"""The flow as a stage: what is drawn, what is masked, over-fitting, export."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.infer.bundle import load_bundle
from cosyjax.infer.modules import parameter_shapes
from cosyjax.losses.flow import FlowBatch, draw_flow, flow_terms
from cosyjax.models.flow import FlowMatching, FlowTrainingConfig
from cosyjax.train.task import Params
from cosyjax.train.tasks import flow as stage
from cosyjax.train.tasks.flow import GROUP, FlowTask
from tests.products import matrix_products
from tests.tiny_flow import MELS, TINY, tiny_params

TASK = FlowTask(TINY)
KEY = jax.random.key(3)
TOKENS = 6
LENGTHS = np.array([TOKENS, 4], np.int32)
STREAM = np.random.default_rng(0)
BATCH = {
    "speech_tokens": STREAM.integers(0, 9, (2, TOKENS), dtype=np.int32),
    "num_tokens": LENGTHS,
    "mel": STREAM.standard_normal((2, 2 * TOKENS, MELS), np.float32),
    "speaker_embedding": STREAM.standard_normal((2, 5), np.float32),
}
GRADIENT = jax.jit(jax.value_and_grad(TASK.loss, has_aux=True))  # one program for most tests


@pytest.fixture(scope="module")
def params() -> Params:
    return {GROUP: tiny_params()}


def with_mel(row: int, frame: int, value: float) -> dict:
    mel = BATCH["mel"].copy()
    mel[row, frame] = value
    return BATCH | {"mel": mel}


def test_a_frame_of_the_padding_leaves_loss_and_gradient_finite_and_equal(params: Params) -> None:
    (before, metrics), grads = GRADIENT(params, BATCH, KEY)
    (loss, _), poisoned = GRADIENT(params, with_mel(1, 8, np.nan), KEY)
    assert float(loss) == float(before) and float(metrics["weight"]) == 20
    jax.tree.map(np.testing.assert_array_equal, poisoned, grads)
    assert float(GRADIENT(params, with_mel(1, 7, 9.0), KEY)[0][0]) != float(before)


def test_the_key_moves_the_loss_but_not_the_held_out_loss(params: Params) -> None:
    losses = [float(GRADIENT(params, BATCH, jax.random.key(seed))[0][0]) for seed in (3, 4)]
    assert losses[0] != losses[1]
    evaluate = jax.jit(TASK.evaluate)
    first = float(evaluate(params, BATCH, KEY)["loss"])
    assert float(evaluate(params, BATCH, jax.random.key(4))["loss"]) == first
    other = BATCH | {"speech_tokens": (BATCH["speech_tokens"] + 1) % 9}
    assert float(evaluate(params, other, KEY)["loss"]) != first


def test_an_empty_batch_of_rows_costs_nothing_and_is_finite(params: Params) -> None:
    empty = jax.tree.map(np.zeros_like, BATCH)
    (loss, _), grads = GRADIENT(params, empty, KEY)
    assert float(loss) == 0 and all(bool(jnp.all(g == 0)) for g in jax.tree.leaves(grads))


def test_one_batch_over_fits(params: Params) -> None:
    optimizer, own, losses = optax.adam(0.02), params, []
    state = jax.jit(optimizer.init)(params)

    @jax.jit
    def move(own, grads, state):
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(own, updates), state

    for _ in range(120):
        (loss, _), grads = GRADIENT(own, BATCH, KEY)
        own, state = move(own, grads, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 5


def test_an_exported_flow_has_the_trees_of_a_bundle(params: Params) -> None:
    how = FlowTrainingConfig(masks="paper", remat="full")
    task = FlowTask(dataclasses.replace(TINY, compute="bfloat16", training=how))
    found, trees = task.modules(params)
    config = found["flow"]
    assert config.compute == "float32" and config.training == FlowTrainingConfig(masks="paper")
    flat = jax.tree_util.tree_leaves_with_path(trees["flow"])
    given = {".".join(e.key for e in path): leaf.shape for path, leaf in flat}
    assert given == parameter_shapes("flow", config)


def test_every_parameter_has_names_for_its_axes() -> None:
    shapes = jax.eval_shape(TASK.init, KEY)
    for leaf in jax.tree.leaves(shapes, is_leaf=lambda x: hasattr(x, "names")):
        assert len(leaf.names) == leaf.value.ndim


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputation_changes_neither_loss_nor_gradient(params: Params, remat: str) -> None:
    how = dataclasses.replace(TINY.training, remat=remat)
    task = FlowTask(dataclasses.replace(TINY, training=how))
    (loss, _), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, BATCH, KEY)
    (wanted, _), plain = GRADIENT(params, BATCH, KEY)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, plain)


@functools.cache
def traced_products(remat: str) -> list:
    how = dataclasses.replace(TINY.training, remat=remat)
    task = FlowTask(dataclasses.replace(TINY, compute="bfloat16", training=how))
    shapes = jax.eval_shape(lambda: {GROUP: tiny_params()})
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: task.loss(p, BATCH, KEY)[0]))(shapes)
    return list(matrix_products(jaxpr.jaxpr))


def test_bfloat16_training_multiplies_float32_in_the_time_embedding_alone() -> None:
    products = traced_products("none")
    exact = [types for types, _ in products if types != ("bfloat16", "bfloat16")]
    # Two layers of the time embedding, its share in each of three stages, and the speaker's
    # projection: a row per utterance. Forward, and backward to kernels and inputs.
    assert len(exact) <= 3 * (2 + 3 + 1) and len(products) - len(exact) > 60


@pytest.mark.slow
def test_recomputation_takes_the_products_that_it_says() -> None:
    none, dots, full = (len(traced_products(remat)) for remat in ("none", "dots", "full"))
    # Two encoder blocks with three products of attention, three others with two. Those of weights
    # and values end up in a kept product.
    assert none < dots < full and dots - none <= 2 * 3 + 3 * 2


@pytest.mark.slow
def test_flops_are_those_of_the_traced_forward_pass() -> None:
    batch = FlowBatch(*(jnp.asarray(BATCH[name]) for name in FlowBatch._fields))
    draws = draw_flow(KEY, TINY, batch.num_tokens, 2 * TOKENS)
    run = lambda p: flow_terms(FlowMatching(TINY), p, batch, draws).velocity
    jaxpr = jax.make_jaxpr(run)(jax.eval_shape(tiny_params))
    counted = sum(flops for _, flops in matrix_products(jaxpr.jaxpr))
    assert 0.8 < 2 * stage.flops_per_row(TINY, TOKENS) / counted < 1.1
    assert TASK.cost({"speech_tokens": (2, TOKENS)}).flops == 6 * stage.flops_per_row(TINY, TOKENS)


def test_the_config_survives_a_round_trip() -> None:
    assert configs.from_dict(FlowTask, configs.to_dict(TASK)) == TASK
    estimator = dataclasses.replace(TINY.estimator, fused=True)
    with pytest.raises(InputError, match="fused"):
        FlowTask(dataclasses.replace(TINY, estimator=estimator))
    assert TASK.samples({}, BATCH, KEY) == []


@pytest.mark.slow
def test_the_vocoder_of_a_bundle_speaks_the_first_rows(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, modules=("flow",))
    task = FlowTask(bundle.config.flow, vocoder=str(tiny_bundle))
    dims, mels = bundle.config.flow.speaker_dim, bundle.config.flow.estimator.num_mels
    batch = {
        "speech_tokens": np.ones((3, TOKENS), np.int32),
        "num_tokens": np.array([TOKENS, 0, 4], np.int32),
        "mel": np.zeros((3, 2 * TOKENS, mels), np.float32),
        "speaker_embedding": np.ones((3, dims), np.float32),
    }
    (sample,) = task.samples(task.load(tiny_bundle), batch, KEY)  # the second row is padding
    assert sample.wav.shape == (TOKENS * 960,) and np.all(np.isfinite(sample.wav))
    assert sample.sample_rate_hz == 24_000 and np.std(sample.wav) > 0
