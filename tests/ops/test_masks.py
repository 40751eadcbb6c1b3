"""The four masks of the paper as literals, and the mask of a step as a part of the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.errors import InputError
from cosyjax.ops import masks

FRAMES = 6
LITERALS = {
    "full": ["111111", "111111", "111111", "111111", "111111", "111111"],
    "causal": ["100000", "110000", "111000", "111100", "111110", "111111"],
    "chunk": ["110000", "110000", "111100", "111100", "111111", "111111"],
    "double_chunk": ["111100", "111100", "111100", "111100", "111111", "111111"],
}


def literal(rows: list[str]) -> np.ndarray:
    return np.array([[c == "1" for c in row] for row in rows])


def whole(kind: str, length: int = FRAMES, left_chunks: int = -1) -> np.ndarray:
    limit = masks.chunk_of_kind(masks.kind_index(kind), 2)
    return np.asarray(masks.whole(jnp.array([length]), FRAMES, limit, left_chunks))[0]


@pytest.mark.parametrize("kind", masks.MASK_KINDS)
def test_each_mask_of_the_paper_is_the_drawn_one(kind: str) -> None:
    np.testing.assert_array_equal(whole(kind), literal(LITERALS[kind]))


@pytest.mark.parametrize("kind", masks.MASK_KINDS)
def test_a_mask_without_left_limit_is_where_each_frame_stops_seeing(kind: str) -> None:
    limit = masks.chunk_of_kind(masks.kind_index(kind), 2)
    ends = masks.ends(jnp.array([5]), FRAMES, limit)[0]
    np.testing.assert_array_equal(np.arange(FRAMES) < ends[:, None], whole(kind, length=5))


def test_padding_is_never_seen() -> None:
    drawn = ["110000", "110000", "111000", "111000", "111000", "111000"]
    np.testing.assert_array_equal(whole("chunk", length=3), literal(drawn))


def test_left_chunks_limit_how_far_back_a_frame_sees() -> None:
    drawn = ["110000", "110000", "111100", "111100", "001111", "001111"]
    np.testing.assert_array_equal(whole("chunk", left_chunks=1), literal(drawn))


def test_each_row_may_have_its_own_mask() -> None:
    limit = masks.chunk_of_kind(jnp.array([0, 1]), 2)
    both = np.asarray(masks.whole(jnp.array([FRAMES, FRAMES]), FRAMES, limit))
    np.testing.assert_array_equal(both[0], literal(LITERALS["full"]))
    np.testing.assert_array_equal(both[1], literal(LITERALS["causal"]))


@pytest.mark.parametrize("position", [0, 2, 4])
def test_the_mask_of_a_step_is_a_window_of_the_whole_mask(position: int) -> None:
    cached = 4
    args = (jnp.array([position]), jnp.array([2]), (cached, 2))
    step = np.asarray(masks.window(*args, chunk=2))[0]
    padded = np.pad(literal(LITERALS["chunk"]), ((0, 0), (cached, 0)))
    wanted = padded[position : position + 2, position : position + cached + 2]
    np.testing.assert_array_equal(step, wanted)


def test_an_unknown_mask_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'causal'"):
        masks.kind_index("casual")
