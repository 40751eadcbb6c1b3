"""Schedules are functions of the step; norms and biases do not decay."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.train.config import OptimizerConfig
from cosyjax.train.optim import decay_mask, make_optimizer, make_schedule

NUM_STEPS = 100


def rates(**fields) -> list[float]:
    schedule = make_schedule(OptimizerConfig(peak_lr=1.0, **fields), NUM_STEPS)
    return [float(schedule(jnp.int32(step))) for step in range(NUM_STEPS + 1)]


def test_warm_up_is_linear_and_never_zero() -> None:
    np.testing.assert_allclose(
        rates(warmup_steps=4, schedule="constant")[:5], [0.25, 0.5, 0.75, 1, 1]
    )


def test_cosine_falls_from_the_peak_to_the_final_rate() -> None:
    values = rates(warmup_steps=10, final_lr=0.1)
    assert values[10] == 1.0
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_wsd_holds_and_then_falls_on_a_line() -> None:
    values = rates(schedule="wsd", warmup_steps=10, decay_steps=20)
    assert values[10:81] == [1.0] * 71
    np.testing.assert_allclose(values[90], 0.5, rtol=1e-6)
    assert values[100] == 0.0


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(InputError, match="cosine"):
        OptimizerConfig(schedule="cosin")


def test_norms_and_biases_do_not_decay() -> None:
    matrix, vector = jnp.ones((2, 2)), jnp.ones(2)
    params = {"dense": {"kernel": matrix, "bias": matrix}, "norm": {"scale": vector}, "x": vector}
    assert decay_mask(params) == {
        "dense": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "x": False,
    }


def test_decay_pulls_kernels_alone() -> None:
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5), NUM_STEPS)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {name: 0 * x for name, x in params.items()}
    direction, _ = optimizer.transform.update(zeros, optimizer.transform.init(params), params)
    np.testing.assert_allclose(direction["kernel"], 0.5)
    np.testing.assert_allclose(direction["bias"], 0.0)


def test_clipping_bounds_the_global_norm_before_adam_sees_it() -> None:
    optimizer = make_optimizer(OptimizerConfig(clip_norm=1.0), NUM_STEPS)
    params = {"kernel": jnp.ones(4)}
    state = optimizer.transform.init(params)
    _, state = optimizer.transform.update({"kernel": jnp.full(4, 100.0)}, state, params)
    first_moment = state[1].mu["kernel"]
    np.testing.assert_allclose(first_moment, 0.1 * 0.5, rtol=1e-5)
