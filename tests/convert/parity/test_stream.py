"""Golden run of the official chunked controller, and reading of the tensors' names."""

import dataclasses

import numpy as np
import pytest

from cosyjax.convert.parity import fixture, runner, stream
from cosyjax.infer.official_stream import Chunk, FlowCall


def failures(golden, wanted):
    loaded = fixture.load_fixture(golden / "stream_token2wav.json", runner.manifest_keys)
    outputs = {name: value for name, value in loaded.outputs.items() if wanted(name)}
    assert outputs
    rows = [
        runner.compare(loaded.name, check)
        for check in stream.run(dataclasses.replace(loaded, outputs=outputs))
    ]
    assert {row.tensor for row in rows} == set(outputs)
    return [row for row in rows if row.verdict != "ok"]


def in_one_piece(name):
    return name.startswith(("offline", "speed"))


def test_golden_chunks_hold(golden):
    assert failures(golden, lambda name: not in_one_piece(name)) == []


@pytest.mark.slow  # two further lengths to compile
def test_golden_whole_speech_holds_at_every_speed(golden):
    assert failures(golden, in_one_piece) == []


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("stream_audio", slice(None)),
        ("offline_audio_first_40", slice(0, 40)),
        ("offline_audio_last_30", slice(-30, None)),
        ("speed0p8_audio_every7", slice(None, None, 7)),
    ],
)
def test_the_name_says_which_part_of_the_audio_is_meant(name, wanted):
    wav = np.arange(100.0)
    np.testing.assert_array_equal(stream._excerpt(wav, name), wav[wanted])


def test_the_name_says_which_columns_a_call_has():
    chunk = Chunk(np.zeros(0), FlowCall(43, 7, True, False), 80, 50)
    assert stream._call_row("flow_calls_token_streaming_finalize_mellen", chunk) == [43, 1, 0, 80]
    assert stream._call_row("flow_calls_mellen_offset_token", chunk) == [80, 7, 43]
    assert stream._call_row("flow_calls", chunk) == [43, 1, 0, 80]
