"""The receptive field that is counted from the sizes is the one that gradients show."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cosyjax.models.hift import HiFT, HiFTConfig, init_params
from cosyjax.models.hift_field import decoder_field, receptive_field
from tests.drawn import drawn, normal

TWO_STAGES = HiFTConfig(
    num_mels=2,
    base_channels=4,
    upsample_rates=(2, 3),
    upsample_widths=(6, 7),
    f0_channels=3,
    f0_layers=2,
    block_widths=(3, 5),
    block_dilations=((1, 2), (1,)),
    source_block_widths=(3, 5),
    source_block_dilations=((2,), (1,)),
    n_fft=8,
    hop=2,
    num_harmonics=1,
)
ONE_STAGE = HiFTConfig(
    num_mels=2,
    base_channels=2,
    upsample_rates=(3,),
    upsample_widths=(5,),
    f0_channels=2,
    f0_layers=1,
    block_widths=(3,),
    block_dilations=((1,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
    n_fft=4,
    hop=4,
    num_harmonics=0,
)
FRAMES, MIDDLE = 41, 20


def reached(gradient: Any) -> tuple[int, int]:
    """First and last index of [T] or [T, D] that is not zero."""
    alive = np.flatnonzero(np.any(np.atleast_2d(np.asarray(gradient).T), axis=0))
    return int(alive[0]), int(alive[-1])


@pytest.fixture(scope="module", params=[TWO_STAGES, ONE_STAGE], ids=["two stages", "one stage"])
def seen(request) -> tuple[HiFTConfig, Any, Any, Any]:
    """What the samples of the middle frame depend on: mel and source of the decoder, mel of F0."""
    config = request.param
    rate = config.samples_per_frame
    params = drawn(lambda key: init_params(config, key))
    vocoder: Any = HiFT(config).bind({"params": params})
    middle = slice(MIDDLE * rate, (MIDDLE + 1) * rate)

    @jax.jit
    def gradients(mel, excitation):
        loud = lambda wav: jnp.sum(wav[0, middle] * normal(rate))
        decoder = jax.grad(lambda *x: loud(vocoder.decode(*x)), (0, 1))(mel, excitation)
        return decoder, jax.grad(lambda mel: vocoder.f0(mel)[0, MIDDLE])(mel)

    mel, excitation = normal(1, FRAMES, 2), 0.1 * normal(1, FRAMES * rate)
    (by_mel, by_source), by_f0 = jax.device_get(gradients(mel, excitation))
    return config, reached(by_mel[0]), reached(by_source[0]), reached(by_f0[0])


def test_the_decoder_sees_what_its_sizes_say(seen) -> None:
    config, by_mel, by_source, _ = seen
    mel, samples = decoder_field(config)
    assert by_mel == (MIDDLE + mel.first, MIDDLE + mel.last)
    start = MIDDLE * config.samples_per_frame
    assert by_source == (start + samples.first, start + samples.last)


def test_pitch_sees_one_frame_more_for_each_layer(seen) -> None:
    config, *_, by_f0 = seen
    assert by_f0 == (MIDDLE - config.f0_layers, MIDDLE + config.f0_layers)


def test_a_sample_depends_on_the_next_frames_pitch_from_the_middle_of_its_frame_on(seen) -> None:
    config, *_ = seen
    rate = config.samples_per_frame
    vocoder: Any = HiFT(config).bind({"params": drawn(lambda key: init_params(config, key))})
    f0 = np.full((2, 4), 200.0, np.float32)
    f0[1, 2] = 300.0
    first, second = np.asarray(jax.jit(vocoder.source)(f0))
    assert np.flatnonzero(first != second)[0] == 2 * rate - rate // 2


def test_the_field_joins_decoder_and_pitch(seen) -> None:
    config, by_mel, by_source, _ = seen
    rate = config.samples_per_frame
    last_f0 = (by_source[1] + rate // 2) // rate + config.f0_layers
    wanted = (MIDDLE - min(by_mel[0], by_source[0] // rate), max(by_mel[1], last_f0) - MIDDLE)
    assert receptive_field(config) == wanted


def test_the_official_vocoder_sees_0_3_s_of_the_past_and_0_4_s_of_the_future() -> None:
    assert receptive_field(HiFTConfig()) == (15, 20)
