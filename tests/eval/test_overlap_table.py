"""The table of overlaps, and the official size of vocoder against its whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cosyjax.eval.borders import snr_db
from cosyjax.eval.overlap_table import Utterance, measure, overlap_table, random_utterance
from cosyjax.infer.overlap import OverlapConfig
from cosyjax.models.hift_field import receptive_field
from tests.tiny_stream import HIFT


@pytest.fixture(scope="module")
def tiny() -> Utterance:
    return random_utterance(40, dataclasses.replace(HIFT, causal=False))


def test_the_table_tells_exact_overlaps_from_others(tiny) -> None:
    rows = overlap_table(tiny, [OverlapConfig(), OverlapConfig(2)], [10])
    exact, short = rows
    assert exact["exact"] and exact["snr_db"] > 60 and exact["near_snr_db"] > 60
    assert not short["exact"] and short["near_snr_db"] <= short["snr_db"] < exact["snr_db"]
    assert exact["step_jump"] < 1e-3 < short["step_jump"]
    assert exact["level_jump_db"] < 0.01 < short["level_jump_db"]
    field = receptive_field(tiny.model.config)
    assert exact["work_ratio"] == (sum(field) + 10) / 10 and short["work_ratio"] == 1.4
    assert exact["delay_frames"] == field.ahead and short["state_bytes"] < exact["state_bytes"]


def test_a_stream_of_one_call_has_no_border(tiny) -> None:
    row = measure(tiny, OverlapConfig(2), 40)
    assert row["snr_db"] > 60 and row["near_snr_db"] is None and row["step_jump"] is None


def test_signal_to_noise_is_in_decibels() -> None:
    wanted = np.float32([1.0, -1.0])
    assert snr_db(wanted * np.float32(1.1), wanted) == pytest.approx(20.0, abs=1e-4)


@pytest.fixture(scope="module")
def official() -> Utterance:
    return random_utterance(230)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [10, 30, 50, 100])
def test_official_size_streams_what_it_says_whole(official, chunk) -> None:
    row = measure(official, OverlapConfig(), chunk)
    assert row["snr_db"] > 60 and row["level_jump_db"] < 1e-3
    assert np.std(official.wav) > 1e-3 and np.mean(np.abs(official.wav) > 0.98) < 0.05
