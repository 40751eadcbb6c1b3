"""Relative attention in chunks: a step sees what the whole call sees."""

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax.layers.conformer import ConformerBlock, RelativeAttention, by_key, distance_table
from cosyjax.ops import masks
from tests.contracts import assert_causal, assert_padding_inert, assert_streams
from tests.drawn import drawn, normal
from tests.jitted import Jitted

CHUNK, FRAMES, WIDTH = 2, 6, 8
X = normal(2, FRAMES, WIDTH)
MODULE = ConformerBlock(WIDTH, 2, 8, chunk=CHUNK)
BLOCK, VARIABLES = Jitted(MODULE), drawn(MODULE.init, X)


@jax.jit
def padded(x: jax.Array, lengths: jax.Array) -> jax.Array:
    x = jnp.where(masks.valid(lengths, x.shape[1])[..., None], x, 0.0)
    return MODULE.apply(VARIABLES, x, masks.whole(lengths, x.shape[1], CHUNK))


def test_scores_by_key_take_the_distance_from_query_back_to_key() -> None:
    queries, keys = 2, 5
    distance = np.arange(keys - 1, -queries, -1)
    table = np.broadcast_to(distance.astype(np.float32), (queries, len(distance)))
    wanted = (keys - queries + np.arange(queries))[:, None] - np.arange(keys)
    np.testing.assert_array_equal(by_key(table), wanted)


def test_the_distance_table_is_one_at_distance_zero() -> None:
    table = np.asarray(distance_table(3, 3, WIDTH))
    assert table.shape == (5, WIDTH)
    np.testing.assert_array_equal(table[2], [0, 1] * (WIDTH // 2))
    np.testing.assert_allclose(table[1, :2], [np.sin(1), np.cos(1)], atol=1e-6)


def test_a_block_speaks_in_chunks_what_it_speaks_at_once() -> None:
    assert_streams(BLOCK, VARIABLES, X, [(2, 4)], init_args=(FRAMES,))


def test_a_block_sees_to_the_end_of_its_chunk() -> None:
    last_seen = lambda t: (t // CHUNK + 1) * CHUNK - 1
    assert_causal(lambda x: MODULE.apply(VARIABLES, x), X[:1], last_seen=last_seen)


def test_padding_is_inert() -> None:
    assert_padding_inert(padded, X, [FRAMES, 3])


def test_a_cache_that_is_too_short_forgets_the_oldest_frames_alone() -> None:
    state = BLOCK.apply(VARIABLES, 2, CHUNK, method="init_state")
    pieces = []
    for start in range(0, FRAMES, CHUNK):
        piece, state = BLOCK.apply(VARIABLES, X[:, start : start + CHUNK], state, method="step")
        pieces.append(piece)
    short = jax.jit(lambda counts: masks.whole(counts, FRAMES, CHUNK, left_chunks=1))
    whole = BLOCK.apply(VARIABLES, X, short(np.array([FRAMES] * 2)))
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=2e-5)


def test_bfloat16_attention_has_a_gradient_at_the_size_of_an_utterance() -> None:
    # Large products go through other code of XLA than tiny ones, which does not take every layout.
    module = RelativeAttention(128, 4, compute="bfloat16")
    x = normal(4, 75, 128)
    params = drawn(module.init, x, scale=0.1)
    loss = lambda p, x: jnp.sum(jnp.square(module.apply(p, x)))
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    leaves = jax.tree.leaves(jax.device_get(grads))
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in leaves)
