"""Low-rank corrections of a frozen language model."""

import jax
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.train.tasks.lm import GROUP, LORA, LMTask
from cosyjax.train.tasks.lora import LORA_DOWN, LORA_UP, LoRAConfig
from tests.products import matrix_products
from tests.train.tasks.tiny_lm import TINY, draw, fit, pack, sequence

TASK = LMTask(TINY, lora=LoRAConfig(rank=3))
WHOLE = LMTask(TINY)
KEY = jax.random.key(0)
BATCH = pack([[sequence(1, 4, 9), sequence(2, 3, 8)]], 33)
LOSS = jax.jit(TASK.loss)


@pytest.fixture(scope="module")
def params():
    return draw(TASK)


def test_a_fresh_correction_changes_nothing(params):
    jax.tree.map(np.testing.assert_array_equal, params[GROUP], draw(WHOLE)[GROUP])
    loss, _ = jax.jit(WHOLE.loss)({GROUP: params[GROUP]}, BATCH, KEY)
    assert float(LOSS(params, BATCH, KEY)[0]) == float(loss)


def test_training_moves_the_corrections_alone_and_export_merges_them(params):
    trained, losses = fit(TASK, params, BATCH, 0.02, 60)
    assert losses[-1] < 0.7 * losses[0] and trained[GROUP] is params[GROUP]
    for leaf in jax.tree.leaves(trained[LORA]):
        assert np.any(leaf != 0, axis=(1, 2)).all()  # of every layer
    _, trees = TASK.modules(trained)
    configs_found, plain = WHOLE.modules({GROUP: params[GROUP]})
    assert TASK.modules(trained)[0] == configs_found
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes(trees) == shapes(plain)
    merged = LMTask(configs_found["text_speech_lm"])
    got, _ = jax.jit(merged.loss)({GROUP: trees["text_speech_lm"]}, BATCH, KEY)
    np.testing.assert_allclose(got, LOSS(trained, BATCH, KEY)[0], rtol=2e-5)


def test_no_kernel_of_the_frozen_model_has_a_gradient():
    shapes = jax.eval_shape(lambda: draw(TASK))
    grad = jax.grad(lambda own, base: TASK.loss({GROUP: base, LORA: own}, BATCH, KEY)[0])
    own = matrix_products(jax.make_jaxpr(grad)(shapes[LORA], shapes[GROUP]).jaxpr)
    whole = jax.grad(lambda own: WHOLE.loss({GROUP: own}, BATCH, KEY)[0])
    every = matrix_products(jax.make_jaxpr(whole)(shapes[GROUP]).jaxpr)
    # 7 kernels of a block and the head have none; 7 corrections have 2 forward, 4 backward.
    assert len(list(own)) == len(list(every)) - 8 + 7 * 6


def test_corrections_carry_the_axes_of_their_kernels():
    boxed = jax.eval_shape(TASK.init, KEY)
    query = boxed[LORA]["backbone"]["layers"]["attention"]["query"]
    kernel = boxed[GROUP]["backbone"]["layers"]["attention"]["query"]["kernel"]
    layers, inputs, outputs = kernel.names
    assert query[LORA_DOWN].names == (layers, inputs, None)
    assert query[LORA_UP].names == (layers, None, outputs)
    assert query[LORA_DOWN].value.shape == (2, 12, 3) and query[LORA_UP].value.shape == (2, 3, 16)


def test_the_config_survives_a_round_trip_and_names_what_is_wrong():
    assert configs.from_dict(LMTask, configs.to_dict(TASK)) == TASK
    assert configs.override(TASK, "lora.rank=8").lora.rank == 8
    with pytest.raises(InputError, match="did you mean 'query'"):
        LoRAConfig(rank=2, targets=("quary",))
    with pytest.raises(InputError, match="rank=-1"):
        LoRAConfig(rank=-1)
