"""The FSMN attention block: its memory and its sizes (its padding: see the tokenizer)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.layers.fsmn import FSMNBlockConfig, FSMNMemory, depthwise


def test_depthwise_equals_a_grouped_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 9, 4))
    kernel = jax.random.normal(jax.random.key(1), (5, 4))
    wanted = jax.lax.conv_general_dilated(
        x,
        kernel[:, None],
        (1,),
        ((2, 2),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=4,
    )
    np.testing.assert_allclose(jax.jit(depthwise)(x, kernel), wanted, atol=1e-5)


def test_the_memory_keeps_the_values_and_silences_padding():
    x = jax.random.normal(jax.random.key(0), (1, 6, 4))
    mask = jnp.arange(6)[None] < 4
    variables = {"params": {"kernel": jnp.zeros((5, 1, 4))}}
    y = FSMNMemory(5).apply(variables, x, mask)
    np.testing.assert_array_equal(y[:, :4], x[:, :4])
    assert np.all(y[:, 4:] == 0)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="num_heads"):
        FSMNBlockConfig(embed_dim=10, num_heads=3)
    with pytest.raises(InputError, match="odd"):
        FSMNBlockConfig(fsmn_width=30)
