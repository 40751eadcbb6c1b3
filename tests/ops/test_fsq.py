"""Finite scalar quantization: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import fsq


def test_all_6561_tokens_survive_the_way_to_codes_and_back():
    tokens = jnp.arange(6561)
    codes = fsq.tokens_to_codes(tokens)
    assert codes.shape == (6561, 8) and set(np.unique(codes)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(fsq.codes_to_tokens(codes), tokens)


def test_other_levels_survive_too():
    tokens = jnp.arange(5**4)
    codes = fsq.tokens_to_codes(tokens, 4, 5)
    assert float(codes.min()) == -2.0 and float(codes.max()) == 2.0
    np.testing.assert_array_equal(fsq.codes_to_tokens(codes, 5), tokens)


def test_the_first_dimension_is_the_least_significant_digit():
    codes = -jnp.ones((8,))
    assert int(fsq.codes_to_tokens(codes)) == 0
    assert int(fsq.codes_to_tokens(codes.at[0].set(0.0))) == 1
    assert int(fsq.codes_to_tokens(codes.at[7].set(1.0))) == 2 * 3**7


def test_ties_round_to_even():
    x = jnp.asarray([-1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(fsq.round_ste(x), [-2.0, 0.0, 0.0, 2.0, 2.0])


def test_rounding_gives_integers_exactly():
    x = jax.random.uniform(jax.random.key(0), (10_000,), minval=-1.0)
    np.testing.assert_array_equal(fsq.round_ste(x), np.round(x))


def test_the_gradient_passes_rounding_unchanged():
    x = jnp.asarray([0.2, -0.7, 0.5])
    weights = jnp.asarray([1.0, 2.0, -3.0])
    gradient = jax.grad(lambda x: jnp.sum(fsq.round_ste(x) * weights))(x)
    np.testing.assert_array_equal(gradient, weights)


def test_the_bound_is_scaled_tanh_and_the_paper_s_is_plain_tanh():
    x = jnp.asarray([0.5, -30.0])
    np.testing.assert_allclose(fsq.bound(x), 0.9990000128746033 * np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(fsq.bound(x, 5, scale=1.0), 2 * np.tanh(x), rtol=1e-6)


def test_even_levels_and_too_many_tokens_are_refused():
    with pytest.raises(InputError, match="odd"):
        fsq.check_levels(8, 4)
    with pytest.raises(InputError, match="int32"):
        fsq.check_levels(20, 3)
