"""The estimator's parts: closed forms and streaming contracts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import sharding
from cosyjax.errors import InputError
from cosyjax.layers.estimator import CausalResnet, ChunkTransformer, gelu, mish, time_sinusoid
from cosyjax.ops import masks
from tests.contracts import assert_causal, assert_padding_inert, assert_streams
from tests.drawn import drawn, normal
from tests.jitted import Jitted

CHUNK, FRAMES, WIDTH = 2, 6, 6
X = normal(2, FRAMES, WIDTH)
LENGTHS = np.array([FRAMES, 3])
BLOCK = ChunkTransformer(WIDTH, 2, 4, 8, chunk=CHUNK)
BLOCK_VARIABLES = drawn(BLOCK.init, X)
RESNET = CausalResnet(WIDTH, 5)
RESNET_VARIABLES = drawn(RESNET.init, X)


def test_mish_and_gelu_are_their_definitions() -> None:
    x = np.linspace(-30.0, 100.0, 101, dtype=np.float32)
    wanted = x * np.tanh(np.logaddexp(x.astype(np.float64), 0.0))
    np.testing.assert_allclose(jax.jit(mish)(x), wanted, atol=1e-5, rtol=1e-6)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(jax.jit(gelu)(x), exact, atol=1e-5)


def test_time_sinusoids_are_sines_then_cosines_of_thousand_t() -> None:
    table = np.asarray(time_sinusoid(np.array([0.0, 0.5], np.float32), 8))
    np.testing.assert_array_equal(table[0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(table[1, 0], np.sin(500.0), atol=1e-5)
    np.testing.assert_allclose(table[1, 7], np.cos(500.0 / 10_000), atol=1e-6)


def test_a_transformer_block_speaks_in_chunks_what_it_speaks_at_once() -> None:
    assert_streams(Jitted(BLOCK), BLOCK_VARIABLES, X, [(4, 2)], init_args=(FRAMES,))


def test_a_transformer_block_sees_to_the_end_of_its_chunk() -> None:
    last_seen = lambda t: (t // CHUNK + 1) * CHUNK - 1
    assert_causal(lambda x: BLOCK.apply(BLOCK_VARIABLES, x), X[:1], last_seen=last_seen)


def test_padding_is_inert_in_a_transformer_block() -> None:
    def padded(x: jax.Array, lengths: jax.Array) -> jax.Array:
        x = jnp.where(masks.valid(lengths, x.shape[1])[..., None], x, 0.0)
        return BLOCK.apply(BLOCK_VARIABLES, x, masks.whole(lengths, x.shape[1], CHUNK))

    assert_padding_inert(jax.jit(padded), X, [FRAMES, 3])


def test_a_resnet_block_streams() -> None:
    assert_streams(Jitted(RESNET), RESNET_VARIABLES, X, [(1, 5)])


def test_a_resnet_block_is_causal() -> None:
    assert_causal(lambda x: RESNET.apply(RESNET_VARIABLES, x), X[:1], last_seen=lambda t: t)


def values_and_gradients(block, mask, axes=None):
    """Of a fixed sum over the valid frames; on a mesh of (data, fsdp, tensor) `axes`."""
    valid = masks.valid(LENGTHS, FRAMES)[..., None]

    def run(v, x, mask):
        y, pull = jax.vjp(lambda v, x: jnp.where(valid, block.apply(v, x, mask), 0.0), v, x)
        return y, pull(normal(*X.shape, seed=3))

    if axes is None:
        return jax.jit(run)(BLOCK_VARIABLES, X, mask)
    mesh = sharding.make_mesh(*axes)
    given = jax.device_put((BLOCK_VARIABLES, X, mask), sharding.replicated(mesh))
    return jax.jit(sharding.placed(run, mesh, sharding.DEFAULT_RULES))(*given)


@pytest.mark.parametrize(
    "kinds, axes", [(["full", "double_chunk"], None), (["chunk", "causal"], (1, 2, 2))]
)
def test_the_tpu_kernel_gives_the_values_and_gradients_of_the_reference(kinds, axes) -> None:
    by_kernel = BLOCK.clone(attention="splash_interpret")
    chunk = masks.chunk_of_kind(jnp.array([masks.kind_index(kind) for kind in kinds]), CHUNK)
    got = values_and_gradients(by_kernel, masks.ends(LENGTHS, FRAMES, chunk), axes)
    wanted = values_and_gradients(BLOCK, masks.whole(LENGTHS, FRAMES, chunk))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_mesh_that_would_cut_a_head_in_two_is_refused() -> None:
    mesh = sharding.make_mesh(1, 2, 4)
    run = sharding.placed(lambda x: BLOCK.apply(BLOCK_VARIABLES, x), mesh, sharding.DEFAULT_RULES)
    with pytest.raises(InputError, match="num_heads=2.*4 devices.*may have 1, 2"):
        jax.eval_shape(run, X)
