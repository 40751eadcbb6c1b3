"""The TPU kernel, run step by step, is attention under the masks of this project."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import masks, splash
from cosyjax.ops.attend import attend
from tests.drawn import normal

ROWS, SIZE, WIDTH = 2, 200, 8  # two blocks of 128, the second one partly padding
LENGTHS = np.array([SIZE, 77])
CHUNK = 25


def given(num_heads=2, num_kv_heads=1, size=SIZE):
    shapes = [(ROWS, size, n, WIDTH) for n in (num_heads, num_kv_heads, num_kv_heads, num_heads)]
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def by_kernel(ends, segment_ids=None, block=128):
    return functools.partial(
        splash.attend, ends=ends, segment_ids=segment_ids, interpret=True, block=block
    )


def by_xla(mask):
    def run(query, key, value):
        group = query.shape[2] // key.shape[2]
        return attend(query, jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2), mask)

    return run


def compare(kernel, reference, x, valid=None):
    """Values and gradients of both, where `valid` [B, T]."""
    valid = np.ones(x[0].shape[:2], bool) if valid is None else valid
    cotangent = np.where(valid[..., None, None], x[3], 0.0)

    def run(f):
        y, pull = jax.vjp(f, *x[:3])
        return jnp.where(valid[..., None, None], y, 0.0), pull(cotangent)

    got, wanted = jax.jit(lambda: (run(kernel), run(reference)))()
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.any(b), "a reference of zeros proves nothing"
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_causal_heads_that_share_keys_in_packed_rows():
    segment_ids = np.stack([np.arange(SIZE) // 90, np.arange(SIZE) // 140])
    positions = np.arange(SIZE)
    mask = (positions[:, None] >= positions) & (segment_ids[:, :, None] == segment_ids[:, None])
    kernel = by_kernel(jnp.arange(SIZE) + 1, segment_ids)
    compare(kernel, by_xla(mask), given(num_heads=4, num_kv_heads=2))


def test_every_row_may_have_a_mask_of_its_own():
    kinds = jnp.array([masks.kind_index("chunk"), masks.kind_index("full")])
    chunk = masks.chunk_of_kind(kinds, CHUNK)
    lengths = LENGTHS[::-1].copy()
    kernel = by_kernel(masks.ends(lengths, SIZE, chunk))
    mask = masks.whole(lengths, SIZE, chunk)
    compare(kernel, by_xla(mask), given(), np.asarray(masks.valid(lengths, SIZE)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", masks.MASK_KINDS)
@pytest.mark.parametrize("size, block", [(SIZE, 128), (384, 256), (100, 512)])
def test_each_kind_of_mask_at_several_sizes(kind, size, block):
    lengths = jnp.minimum(LENGTHS, size)
    chunk = masks.chunk_of_kind(masks.kind_index(kind), CHUNK)
    kernel = by_kernel(masks.ends(lengths, size, chunk), block=block)
    valid = np.asarray(masks.valid(lengths, size))
    compare(kernel, by_xla(masks.whole(lengths, size, chunk)), given(size=size), valid)


def test_blocks_that_nobody_may_see_are_not_multiplied():
    ends = jnp.minimum(jnp.arange(512) + 1, 300)
    tables = splash._make_tables(ends, 128)
    np.testing.assert_array_equal(
        tables.needed[0], [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    )
    np.testing.assert_array_equal(tables.keys[0, 1], [0, 1, 0, 0])
    np.testing.assert_array_equal(tables.queries[0, :, 1], [1, 1, 2, 3])
    # What is beyond the ends may be anything, the kernel never reads it.
    query, key, value, _ = (jnp.asarray(x) for x in given(size=256))
    poison = lambda x: x.at[:, 128:].set(jnp.nan)
    kernel = jax.jit(by_kernel(jnp.full((256,), 128)))
    y = kernel(query, poison(key), poison(value))
    np.testing.assert_allclose(y, kernel(query, key, value), atol=0)


def test_blocks_are_multiples_of_the_lanes_with_little_padding():
    sizes = {n: splash._block_size(n, 512) for n in (1, 128, 200, 640, 1500, 2048, 2049)}
    assert sizes == {1: 128, 128: 128, 200: 256, 640: 384, 1500: 512, 2048: 512, 2049: 512}


def test_a_cpu_is_told_what_to_use_instead():
    with pytest.raises(InputError, match="TPU kernel.*'whole'"):
        splash.attend(*given()[:3], jnp.arange(SIZE) + 1)
