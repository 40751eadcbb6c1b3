"""One step: turns in order, frozen groups, microbatches, averages."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.train.config import OptimizerConfig, TrainConfig
from cosyjax.train.state import make_init, make_optimizers
from cosyjax.train.step import make_step
from cosyjax.train.task import Turn
from tests.train.toy import ToyData, ToyTask


@functools.lru_cache
def start(task: ToyTask = ToyTask(), **fields):
    config = TrainConfig("toy", task, ToyData(), OptimizerConfig(peak_lr=0.01), **fields)
    optimizers = make_optimizers(task, config)
    state = make_init(task, config, optimizers)[0](jax.random.key(0))
    step = make_step(
        task,
        optimizers,
        seed=config.seed,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay,
    )
    return state, jax.jit(step)


def batch(count: int = 8):
    rows = dict(next(iter(ToyData(batch_size=count).dataset("train", seed=0))))
    rows.pop("records")
    return rows


def assert_close(a, b, atol: float) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=0), a, b)


def test_a_group_without_a_turn_is_frozen_and_has_no_optimizer_state() -> None:
    state, step = start()
    after, _ = step(state, batch())
    assert set(after.opt_state) == {"generator"}
    assert_close(after.params["critic"], state.params["critic"], 0)
    assert not np.allclose(
        after.params["generator"]["up"]["kernel"], state.params["generator"]["up"]["kernel"]
    )


@pytest.mark.parametrize("accumulate", [2, 4])
def test_microbatches_equal_the_whole_batch(accumulate: int) -> None:
    task = ToyTask(noise=0.0)
    state, step = start(task)
    _, split = start(task, accumulate=accumulate)
    whole, parts = step(state, batch()), split(state, batch())
    assert_close(whole[0].opt_state["generator"][1].mu, parts[0].opt_state["generator"][1].mu, 1e-6)
    for name in ("loss", "num_targets", "grad_norm"):
        np.testing.assert_allclose(whole[1][name], parts[1][name], rtol=1e-6)


def test_the_second_turn_sees_what_the_first_has_updated() -> None:
    task = ToyTask(single=False)
    state, step = start(task)
    after, metrics = step(state, batch())
    key = jax.random.key(0)
    fresh = {**state.params, "generator": after.params["generator"]}
    np.testing.assert_allclose(
        metrics["critic/loss"], task.judge(fresh, batch(), key)[0], rtol=1e-6
    )
    assert abs(metrics["critic/loss"] - task.judge(state.params, batch(), key)[0]) > 1e-4
    np.testing.assert_allclose(metrics["loss"], metrics["generator/loss"] + metrics["critic/loss"])


def test_the_key_follows_from_the_step_and_the_seed() -> None:
    state, step = start()
    loss = lambda state: float(step(state, batch())[1]["loss"])
    assert loss(state) == loss(state)
    assert loss(state) != loss(state.replace(step=state.step + 1))
    assert loss(state) != float(start(seed=1)[1](state, batch())[1]["loss"])


def test_the_average_lags_behind_in_the_groups_that_have_one() -> None:
    state, step = start(ToyTask(single=False), ema_decay=0.4, ema_groups=("critic",))
    after = state
    for _ in range(8):
        after, _ = step(after, batch())
    last, _ = step(after, batch())
    assert set(last.ema) == {"critic"}
    mean = jax.tree.map(
        lambda a, p: 0.4 * a + 0.6 * p, after.ema, {"critic": last.params["critic"]}
    )
    assert_close(last.ema, mean, 1e-7)
    assert last.smooth["generator"] is last.params["generator"]


def test_naming_a_group_that_does_not_train_is_refused() -> None:
    with pytest.raises(InputError, match="'critic' trains.*generator"):
        start(ema_decay=0.5, ema_groups=("critic",))


class Centred(ToyTask):
    """Hands the batch's mean to `finish`, which keeps it in the bias."""

    def turns(self):
        finish = lambda tree, metrics: {**tree, "up": {**tree["up"], "bias": metrics["mean"]}}
        return (Turn("generator", self.centre, finish),)

    def centre(self, params, batch, key):
        loss, metrics = self.fit(params, batch, key)
        mean = jnp.sum(batch["x"] * batch["num"][:, None], axis=0) / jnp.sum(batch["num"])
        return loss, {**metrics, "mean": jnp.tile(mean, 2)}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_no_gradient_moves_is_moved_at_the_end_of_a_turn(accumulate: int) -> None:
    state, step = start(Centred(noise=0.0), accumulate=accumulate)
    after, metrics = step(state, batch())
    mean = np.average(batch()["x"], axis=0, weights=batch()["num"])
    np.testing.assert_allclose(after.params["generator"]["up"]["bias"], [*mean, *mean], atol=1e-6)
    assert "mean" not in metrics
