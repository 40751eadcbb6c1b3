"""Weight-normed kernels of any rank."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.layers.weight_norm import channel_norm, normed_kernel, weight_norm_kernel


class Kernel(nn.Module):
    shape: tuple[int, ...]
    channel_axis: int

    @nn.compact
    def __call__(self):
        axes = tuple("abcd"[: len(self.shape)])
        return weight_norm_kernel(self, self.shape, axes, channel_axis=self.channel_axis)


@pytest.mark.parametrize("shape, channel_axis", [((3, 4, 5), -2), ((2, 3, 4, 5), -1)])
def test_each_channel_has_the_length_that_scale_gives_it(shape, channel_axis):
    size = tuple(n if a == channel_axis % len(shape) else 1 for a, n in enumerate(shape))
    direction = jax.random.normal(jax.random.key(0), shape)
    scale = 0.5 + jax.random.uniform(jax.random.key(1), size)
    kernel = normed_kernel(direction, scale, channel_axis)
    np.testing.assert_allclose(channel_norm(kernel, channel_axis), scale, rtol=1e-6)


def test_the_length_of_the_direction_does_not_matter():
    direction = jax.random.normal(jax.random.key(0), (3, 4, 5))
    scale = jnp.ones((1, 1, 5))
    other = normed_kernel(7.0 * direction, scale)
    np.testing.assert_allclose(other, normed_kernel(direction, scale), rtol=1e-6)


def test_a_new_kernel_equals_its_direction():
    variables = Kernel((3, 4, 5), -2).init(jax.random.key(0))
    params = nn.meta.unbox(variables)["params"]
    kernel = Kernel((3, 4, 5), -2).apply(variables)
    np.testing.assert_allclose(kernel, params["direction"], rtol=1e-6)


def test_scale_keeps_the_rank_of_the_kernel_and_the_name_of_the_channel():
    boxed = Kernel((3, 4, 5), -2).init(jax.random.key(0))["params"]
    assert boxed["scale"].value.shape == (1, 4, 1)
    assert boxed["scale"].names == (None, "b", None)
    assert boxed["direction"].names == ("a", "b", "c")
