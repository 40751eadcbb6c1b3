"""What a compiled program does is counted as a person would count it, loops included."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.aot import cost, hlo
from cosyjax.aot.judge import examine
from cosyjax.aot.trips import trip_count
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLMConfig
from cosyjax.train.tasks.lm import LMTask

WIDTH, ROWS, LAYERS = 32, 48, 6


def compiled(function, *args) -> hlo.Module:
    return hlo.parse(jax.jit(function).lower(*args).compile().as_text())


def as_written(function, *args) -> hlo.Module:
    """Before the compiler of this machine rewrites it."""
    lowered = jax.jit(function).lower(*args)
    return hlo.parse(lowered.compiler_ir(dialect="hlo").as_hlo_module().to_string())


def total(module: hlo.Module) -> float:
    return sum(one.flops * one.times for one in cost.products(module))


def layers(x: jax.Array, kernels: jax.Array, scanned: bool) -> jax.Array:
    step = lambda x, kernel: jnp.tanh(x @ kernel)
    if scanned:
        return jax.lax.scan(lambda x, kernel: (step(x, kernel), None), x, kernels)[0]
    return functools.reduce(step, list(kernels), x)


@pytest.mark.parametrize("scanned", [False, True], ids=["unrolled", "scanned"])
def test_products_count_as_often_as_their_loop_runs(scanned: bool) -> None:
    x, kernels = jnp.ones((ROWS, WIDTH)), jnp.ones((LAYERS, WIDTH, WIDTH))
    module = compiled(functools.partial(layers, scanned=scanned), x, kernels)
    assert total(module) == 2 * ROWS * WIDTH * WIDTH * LAYERS
    assert [loop.trips for loop in cost.loops(module)] == ([LAYERS] if scanned else [])


def test_a_loop_whose_length_depends_on_data_is_told() -> None:
    grow = lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: 2 * x @ x, x)
    module = compiled(grow, jnp.ones((8, 8)))
    assert [loop.known for loop in cost.loops(module)] == [False]
    assert total(module) == 2 * 8**3  # of one turn


UNROLLED = """HloModule jit_f

%condition (state: (s32[], f32[4,4])) -> pred[] {
  %state = (s32[], f32[4,4]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %limit = s32[] constant(24)
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}

%body (state: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %state = (s32[], f32[4,4]) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%counter, %one)
  %after = s32[] add(%one, %next)
  %x = f32[4,4] get-tuple-element(%state), index=1
  ROOT %tuple = (s32[], f32[4,4]) tuple(%after, %x)
}

ENTRY %main (x: f32[4,4]) -> (s32[], f32[4,4]) {
  %x = f32[4,4] parameter(0)
  %start = s32[] constant(4)
  %given = (s32[], f32[4,4]) tuple(%start, %x)
  ROOT %loop = (s32[], f32[4,4]) while(%given), condition=%condition, body=%body
}
"""


def test_a_loop_that_was_unrolled_twice_runs_half_as_often() -> None:
    module = hlo.parse(UNROLLED)
    assert trip_count(module, module.entry, module.entry.root) == (10, True)


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1,), "padding": ((2, 2),)},
        {"window_strides": (2,), "padding": ((0, 0),)},
        {"window_strides": (1,), "padding": ((0, 0),), "rhs_dilation": (3,)},
        {"window_strides": (1,), "padding": ((3, 3),), "lhs_dilation": (2,)},
        {"window_strides": (1,), "padding": ((1, 1),), "feature_group_count": 4},
    ],
    ids=["padded", "strided", "dilated", "transposed", "grouped"],
)
def test_a_convolution_counts_what_meets_a_number(options) -> None:
    groups = options.get("feature_group_count", 1)
    x, kernel = jnp.ones((2, 20, 8)), jnp.ones((5, 8 // groups, 12))
    form = {"dimension_numbers": ("NWC", "WIO", "NWC")}
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, **options, **form)
    # Of ones each result is the number of its products.
    wanted = 2 * float(jnp.sum(convolve(x, kernel)))
    assert total(as_written(convolve, x, kernel)) == wanted


def test_of_a_large_array_only_the_slice_is_read() -> None:
    pick = lambda table, place: jax.lax.dynamic_index_in_dim(table, place, keepdims=False) + 1.0
    module = compiled(pick, jnp.zeros((1000, 64)), jnp.int32(3))
    assert 64 * 4 <= cost.hbm_bytes(module) <= 6 * 64 * 4


def test_a_small_update_does_not_rewrite_the_array() -> None:
    put = lambda table, row: jax.lax.dynamic_update_slice(table, row, (3, 0))
    lowered = jax.jit(put, donate_argnums=0).lower(jnp.zeros((1000, 64)), jnp.ones((1, 64)))
    assert cost.hbm_bytes(hlo.parse(lowered.compile().as_text())) <= 6 * 64 * 4


LM = TextSpeechLMConfig(
    num_layers=3,
    embed_dim=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=160,
    text_vocab_size=50,
    codebook_size=200,
)
LENGTH = 24


@pytest.mark.parametrize("scanned", [False, True], ids=["unrolled", "scanned"])
def test_the_sizes_of_a_model_tell_its_products(scanned: bool) -> None:
    config = LMTask(model=LM).model
    config = config.__class__(**{**config.__dict__, "scan_layers": scanned})
    task = LMTask(model=config)
    params = jax.eval_shape(lambda: text_speech_lm.init_params(config, jax.random.key(0)))
    names = ("ids", "kinds", "targets", "segment_ids", "positions")
    batch = {name: jnp.zeros((2, LENGTH), jnp.int32) for name in names}

    def loss(params):
        return task.loss({"text_speech_lm": params}, batch, jax.random.key(0))[0]

    work, audit = examine(compiled(jax.grad(loss), params), 1)
    # Without a kernel every position is multiplied with every other one.
    wanted = 3 * 2 * LENGTH * config.flops_per_token(LENGTH)
    np.testing.assert_allclose(work.flops, wanted, rtol=0.02)
    assert not audit.host_transfers


def test_products_in_bf16_and_sums_in_bf16_are_told_apart() -> None:
    def mixed(x: jax.Array, kernel: jax.Array) -> jax.Array:
        low = jnp.matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
        return jnp.exp(low) + jnp.sum(x @ kernel)

    _, audit = examine(as_written(mixed, jnp.ones((8, 8)), jnp.ones((8, 8))), 1)
    assert audit.operands == {"bf16": 2 * 8.0**3, "f32": 2 * 8.0**3}
    assert audit.bf16_share == 0.5
    assert any(line.startswith("exponential in bf16") for line in audit.rounded)
    assert not any("reduce" in line for line in audit.rounded)
