"""The official chunked controller: schedule, seams, and that requests stay apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax import config as configs
from cosyjax.errors import InputError
from cosyjax.infer import official_stream
from cosyjax.infer.frames import FlowCall, flow_frames
from cosyjax.infer.official_stream import OfficialStreamConfig
from cosyjax.infer.speak import NO_TOKENS, Conditions
from cosyjax.infer.stages import Stage, Stages
from cosyjax.models import flow, hift
from cosyjax.models.estimator import EstimatorConfig
from cosyjax.models.upsample_encoder import UpsampleEncoderConfig

MELS, LOOKAHEAD, VOCABULARY = 4, 3, 11
SCHEDULE = OfficialStreamConfig(first_hop=5, max_hop=10, overlap_frames=4, num_steps=2)
FLOW = flow.FlowConfig(
    vocab_size=VOCABULARY,
    speaker_dim=6,
    mask_chunk=5,
    encoder=UpsampleEncoderConfig(8, 2, 8, num_layers=1, num_up_layers=1),
    estimator=EstimatorConfig(
        num_mels=MELS,
        embed_dim=8,
        time_dim=8,
        num_mid_stages=1,
        num_blocks=1,
        num_heads=2,
        head_dim=4,
        mlp_dim=8,
    ),
)
HIFT = hift.HiFTConfig(
    num_mels=MELS,
    base_channels=4,
    upsample_rates=(4,),
    upsample_widths=(8,),
    block_widths=(3,),
    block_dilations=((1,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
    f0_channels=4,
    f0_layers=1,
    num_harmonics=1,
)
SAMPLES_PER_TOKEN = 2 * HIFT.samples_per_frame
NOISE = np.random.default_rng(0).normal(size=(200, MELS)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, 24).astype(np.int32)


@pytest.fixture(scope="module")
def stages():
    return Stages(
        flow=Stage(flow.FlowMatching(FLOW), draw(flow.init_params, FLOW)),
        vocoder=Stage(hift.HiFT(HIFT), draw(hift.init_params, HIFT)),
    )


def draw(init_params, config):
    """Parameters without compiling their initialiser."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "f4"), shapes)


def voice(seed, num_prompt=3):
    rng = np.random.default_rng(seed)
    return Conditions(
        lm_text_tokens=NO_TOKENS,
        lm_speech_tokens=NO_TOKENS,
        flow_tokens=rng.integers(0, VOCABULARY, num_prompt).astype(np.int32),
        flow_mel=rng.normal(size=(2 * num_prompt, MELS)).astype(np.float32),
        speaker_embedding=rng.normal(size=6).astype(np.float32),
    )


def speak(stages, pieces, conditions=voice(0), **inputs):
    inputs = {"noise": NOISE, "config": SCHEDULE} | inputs
    return list(official_stream.stream(stages, conditions, pieces, **inputs))


def joined(chunks):
    return np.concatenate([chunk.wav for chunk in chunks])


def planned(num_tokens, num_prompt, config=OfficialStreamConfig()):
    """The calls for tokens that are all there, by the schedule alone."""
    state = official_stream.init_state(hift.HiFT(HIFT), config)
    calls = []
    while call := official_stream.next_call(
        state, num_tokens, num_prompt=num_prompt, lookahead=LOOKAHEAD, ended=True
    ):
        calls.append(call)
        if call.finalize:
            return calls
        hop = min(config.max_hop, state.hop * config.hop_growth)
        state = state.replace(hop=hop, num_spoken=call.num_tokens - LOOKAHEAD)
    return calls


def test_chunks_grow_and_the_last_one_sees_everything():
    assert planned(95, num_prompt=10) == [
        FlowCall(43, 0, True, False),
        FlowCall(93, 40, True, False),
        FlowCall(95, 90, False, True),
    ]


def test_the_hop_doubles_up_to_its_limit():
    spoken = [call.num_spoken for call in planned(500, num_prompt=0)]
    np.testing.assert_array_equal(np.diff(spoken), [25, 50, 100, 100, 100, 100])


@pytest.mark.parametrize("num_prompt", [0, 1, 24, 25, 26, 60])
def test_prompt_and_first_chunk_end_where_a_mask_chunk_ends(num_prompt):
    first, second = planned(200, num_prompt)[:2]
    assert (num_prompt + second.num_spoken) % 25 == 0
    assert 25 <= second.num_spoken < 50
    assert first.num_tokens == second.num_spoken + LOOKAHEAD


def test_nothing_is_spoken_before_the_lookahead_is_there():
    state = official_stream.init_state(hift.HiFT(HIFT), OfficialStreamConfig())
    limits = {"num_prompt": 0, "lookahead": LOOKAHEAD, "ended": False}
    assert official_stream.next_call(state, 27, **limits) is None
    assert official_stream.next_call(state, 28, **limits) == FlowCall(28, 0, True, False)


def test_how_the_tokens_arrive_does_not_change_what_is_spoken(stages):
    at_once, one_by_one = speak(stages, [TOKENS]), speak(stages, TOKENS)
    assert [c.call for c in at_once] == [c.call for c in one_by_one]
    assert len(at_once) == 3
    np.testing.assert_array_equal(joined(at_once), joined(one_by_one))


def test_every_token_is_worth_its_samples(stages):
    chunks = speak(stages, [TOKENS])
    assert len(joined(chunks)) == len(TOKENS) * SAMPLES_PER_TOKEN
    held = SCHEDULE.overlap_frames * HIFT.samples_per_frame
    assert len(chunks[0].wav) == chunks[1].call.num_spoken * SAMPLES_PER_TOKEN - held


def test_interleaved_requests_speak_as_if_alone(stages):
    voices, tokens = (voice(0), voice(1, 6)), (TOKENS, TOKENS[::-1])
    alone = [joined(speak(stages, [t], v)) for v, t in zip(voices, tokens)]
    streams = [
        official_stream.stream(stages, v, [t], noise=NOISE, config=SCHEDULE)
        for v, t in zip(voices, tokens)
    ]
    mixed = [[], []]
    for pair in zip(*streams, strict=True):
        for chunks, chunk in zip(mixed, pair):
            chunks.append(chunk)
    for a, b in zip(alone, mixed):
        np.testing.assert_array_equal(a, joined(b))


def test_frames_already_spoken_come_out_again_alike(stages):
    calls = FlowCall(10, 0, True, False), FlowCall(20, 7, True, False)
    short, long = (
        flow_frames(stages, voice(0), TOKENS, call, noise=NOISE, num_steps=SCHEDULE.num_steps)
        for call in calls
    )
    assert len(short) == 2 * (10 - LOOKAHEAD)
    np.testing.assert_allclose(long[: len(short)], short, atol=1e-5)


def test_the_prompt_is_cut_by_the_length_of_its_mel(stages):
    call = FlowCall(10, 0, False, True)
    longer = dataclasses.replace(voice(0), flow_mel=np.ones((9, MELS), np.float32))
    frames = flow_frames(stages, longer, TOKENS, call, noise=NOISE, num_steps=SCHEDULE.num_steps)
    assert len(frames) == 2 * (3 + 10) - 9


def test_few_tokens_are_spoken_in_one_piece(stages):
    chunks = speak(stages, [TOKENS[:4]])
    inputs = {"noise": NOISE, "config": SCHEDULE}
    whole = official_stream.speak_whole(stages, voice(0), TOKENS[:4], **inputs)
    assert [chunk.call for chunk in chunks] == [FlowCall(4, 0, False, True)]
    np.testing.assert_array_equal(joined(chunks), whole.wav)


def test_no_tokens_are_no_sound(stages):
    assert speak(stages, []) == []


def test_the_hop_that_one_request_reached_is_not_the_next_ones(stages):
    first, second = speak(stages, [TOKENS]), speak(stages, [TOKENS])
    assert first[-1].next_hop == SCHEDULE.max_hop
    assert [c.call for c in first] == [c.call for c in second]


def test_speed_shortens_the_sound_and_is_refused_in_chunks(stages):
    inputs = {"noise": NOISE, "config": SCHEDULE}
    fast = official_stream.speak_whole(stages, voice(0), TOKENS, speed=1.3, **inputs)
    assert len(fast.wav) == int(48 / 1.3) * HIFT.samples_per_frame
    state = official_stream.init_state(stages.vocoder.model, SCHEDULE)
    call = FlowCall(10, 0, True, False)
    with pytest.raises(InputError, match="speed=1.3 cannot be had in chunks"):
        official_stream.step(stages, voice(0), state, TOKENS, call, **inputs, speed=1.3)


def test_the_key_decides_the_sound(stages):
    one, same, other = (
        joined(speak(stages, [TOKENS], noise=None, key=jax.random.key(seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    with pytest.raises(InputError, match="give `noise` or `key`"):
        speak(stages, [TOKENS], noise=None)


def test_the_key_decides_the_frames_of_the_flow(stages):
    call = FlowCall(10, 0, False, True)
    one, other = (
        flow_frames(
            stages, voice(0), TOKENS, call, key=jax.random.key(seed), num_steps=SCHEDULE.num_steps
        )
        for seed in (0, 1)
    )
    assert np.any(one != other)


def second_chunk(stages, **changes):
    """The samples of the second chunk, with the state before it as it is or changed."""
    state = official_stream.init_state(stages.vocoder.model, SCHEDULE)
    inputs = {"noise": NOISE, "config": SCHEDULE}
    call = FlowCall(10, 0, True, False)
    _, state = official_stream.step(stages, voice(0), state, TOKENS, call, **inputs)
    changed = {name: change(getattr(state, name)) for name, change in changes.items()}
    call, state = FlowCall(20, 7, True, False), state.replace(**changed)
    return official_stream.step(stages, voice(0), state, TOKENS, call, **inputs)[0].wav


def test_samples_held_back_fade_into_the_next_chunk(stages):
    held = SCHEDULE.overlap_frames * HIFT.samples_per_frame
    moved = second_chunk(stages, wav=lambda wav: wav + 1.0) - second_chunk(stages)
    np.testing.assert_allclose(moved[:held], np.hamming(2 * held)[held:], atol=1e-6)
    np.testing.assert_array_equal(moved[held:], 0.0)


@pytest.mark.parametrize("name", ["excitation", "mel"])
def test_the_next_chunk_hears_the_end_of_the_one_before(stages, name):
    assert np.any(second_chunk(stages, **{name: np.zeros_like}) != second_chunk(stages))


def test_config_survives_json_and_refuses_nonsense():
    assert configs.from_dict(OfficialStreamConfig, configs.to_dict(SCHEDULE)) == SCHEDULE
    with pytest.raises(InputError, match="first_hop=50, max_hop=25"):
        OfficialStreamConfig(first_hop=50, max_hop=25)
    with pytest.raises(InputError, match="must be 1 to 4"):
        OfficialStreamConfig(first_hop=2)


def test_the_state_keeps_its_size(stages):
    state = official_stream.init_state(stages.vocoder.model, SCHEDULE)
    sizes = jax.tree.map(jnp.shape, state)
    call = FlowCall(10, 0, True, False)
    _, after = official_stream.step(
        stages, voice(0), state, TOKENS, call, noise=NOISE, config=SCHEDULE
    )
    assert jax.tree.leaves(jax.tree.map(jnp.shape, after)) == jax.tree.leaves(sizes)
