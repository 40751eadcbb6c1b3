"""The flow's loss: what is masked, what is drawn, and that padding is inert."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.losses.flow import FlowBatch, draw_flow, flow_loss, flow_terms, max_prompt_frames
from cosyjax.models.flow import FlowMatching, FlowTrainingConfig
from cosyjax.ops import masks
from tests.tiny_flow import MELS, TINY, tiny_params

TOKENS, ROWS = 6, 2
LENGTHS = jnp.array([TOKENS, 4])
MODEL = FlowMatching(TINY)
DRAWS = draw_flow(jax.random.key(2), TINY, LENGTHS, 2 * TOKENS)._replace(
    keep_conditions=jnp.array([True, True]), num_prompt_frames=jnp.array([2, 0])
)
BATCH = FlowBatch(
    jnp.array([[1, 2, 3, 4, 5, 6], [8, 7, 6, 5, 0, 0]]),
    LENGTHS,
    jax.random.normal(jax.random.key(0), (ROWS, 2 * TOKENS, MELS)),
    jax.random.normal(jax.random.key(1), (ROWS, 5)),
)
loss = jax.jit(functools.partial(flow_loss, MODEL))
terms = jax.jit(functools.partial(flow_terms, MODEL))


@pytest.fixture(scope="module")
def params() -> dict:
    return tiny_params()


def with_mel(frame: int, value: float) -> FlowBatch:
    return BATCH._replace(mel=BATCH.mel.at[1, frame].set(value))


def test_a_frame_of_the_padding_leaves_the_loss_bit_equal_even_as_nan(params: dict) -> None:
    before, metrics = loss(params, BATCH, DRAWS)
    after, _ = loss(params, with_mel(8, jnp.nan), DRAWS)
    assert before == after and np.isfinite(before) and metrics["num_frames"] == 20


def test_noise_in_the_padding_leaves_the_loss_bit_equal(params: dict) -> None:
    other = DRAWS._replace(x0=DRAWS.x0.at[1, 8:].set(9.0))
    assert loss(params, BATCH, DRAWS)[0] == loss(params, BATCH, other)[0]


def test_a_valid_frame_moves_the_loss(params: dict) -> None:
    assert loss(params, BATCH, DRAWS)[0] != loss(params, with_mel(7, 5.0), DRAWS)[0]


def test_a_row_alone_has_the_velocity_it_has_in_a_batch(params: dict) -> None:
    both = terms(params, BATCH, DRAWS).velocity[1, :8]
    cut = lambda leaf: leaf[1:, : leaf.shape[1] * 4 // TOKENS] if leaf.ndim > 1 else leaf[1:]
    alone = FlowBatch(*map(cut, BATCH))._replace(speaker_embedding=BATCH.speaker_embedding[1:])
    draws = type(DRAWS)(*map(cut, DRAWS))
    np.testing.assert_allclose(terms(params, alone, draws).velocity[0], both, atol=2e-5)


def test_the_kernel_of_the_config_gives_the_velocity_of_the_reference(params: dict) -> None:
    kinds = [masks.kind_index(kind) for kind in ("chunk", "double_chunk")]
    draws = DRAWS._replace(mask_kind=jnp.array(kinds))
    training = dataclasses.replace(TINY.training, attention="splash_interpret")
    by_kernel = FlowMatching(dataclasses.replace(TINY, training=training))
    got = jax.jit(functools.partial(flow_terms, by_kernel))(params, BATCH, draws).velocity
    np.testing.assert_allclose(got, terms(params, BATCH, draws).velocity, atol=2e-5)


def test_dropped_conditions_are_zero(params: dict) -> None:
    draws = DRAWS._replace(keep_conditions=jnp.array([False, True]))
    given = terms(params, BATCH, draws).conditions
    assert all(float(jnp.max(jnp.abs(part[0]))) == 0.0 for part in given)
    assert all(float(jnp.max(jnp.abs(part[1]))) > 0.0 for part in given[:2])


def test_the_prompt_is_the_first_frames_of_the_mel(params: dict) -> None:
    prompt = terms(params, BATCH, DRAWS).conditions.prompt_mel
    np.testing.assert_array_equal(prompt[0, :2], BATCH.mel[0, :2])
    assert float(jnp.max(jnp.abs(prompt[0, 2:]))) == 0.0


def test_at_time_one_the_noisy_mel_is_the_mel(params: dict) -> None:
    end = terms(params, with_mel(8, jnp.nan), DRAWS._replace(t=jnp.ones(ROWS)))
    np.testing.assert_allclose(end.x[1, 8:], 0.0, atol=1e-5)
    np.testing.assert_allclose(end.x[0], BATCH.mel[0], atol=1e-5)
    np.testing.assert_allclose(end.target[0], BATCH.mel[0] - DRAWS.x0[0], atol=1e-5)


def draw(how: FlowTrainingConfig, rows: int = 400):
    config = dataclasses.replace(TINY, training=how)
    make = jax.jit(lambda key: draw_flow(key, config, jnp.full((rows,), 50), 4))
    return make(jax.random.key(5))


def test_official_draws_give_half_the_rows_a_prompt_and_the_batch_one_mask() -> None:
    draws = draw(FlowTrainingConfig())
    given = np.asarray(draws.num_prompt_frames)
    assert 0.4 < np.mean(given > 0) < 0.6 and given.max() <= 30
    assert len(set(np.asarray(draws.mask_kind))) == 1
    assert 0.7 < np.mean(draws.keep_conditions) < 0.9
    assert abs(np.mean(draws.t) - 0.5) < 0.05


def test_the_papers_draws_mask_most_of_every_row_under_four_masks() -> None:
    draws = draw(FlowTrainingConfig(masks="paper", prompt="paper", time_warp="cosine"))
    given = np.asarray(draws.num_prompt_frames)
    assert 10 < given.mean() < 20 and given.max() == 30
    assert set(np.asarray(draws.mask_kind)) == set(range(len(masks.MASK_KINDS)))
    assert abs(np.mean(draws.t) - (1 - 2 / np.pi)) < 0.05


def test_the_longest_prompt_is_thirty_per_cent_rounded_down() -> None:
    np.testing.assert_array_equal(max_prompt_frames(jnp.array([10, 14, 24])), [3, 4, 7])
