"""Golden files of the official chunked controller: schedule, calls of the flow, audio."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cosyjax.convert.parity.fixture import Check, Fixture
from cosyjax.convert.parity.flow import load_flow
from cosyjax.convert.parity.vocoder import load_vocoder
from cosyjax.infer import official_stream
from cosyjax.infer.official_stream import Chunk, OfficialStreamConfig
from cosyjax.infer.speak import NO_TOKENS, Conditions
from cosyjax.infer.stages import Stage, Stages
from cosyjax.ops import noise

AUDIO_NAME = re.compile(r"(?P<kind>stream|offline|speed(?P<speed>\d+(?:p\d+)?))_audio.*")
LENGTH_NAME = re.compile(r"(?P<kind>offline|speed(?P<speed>\d+(?:p\d+)?))_len")

# The golden file says what gaussian noise on the mel does to the audio. A tenth of the error that
# a mel itself may have is allowed: rounding every weight of the models once more (2**-24 of it)
# moves the whole audio by 0.3 % to 1.1 % of its standard deviation, and the bound is 2 %.
SENSITIVITY_KEY = "sensitivity_offline_audio_to_gaussian_mel_noise"
MEL_ERROR = 1e-5
TYPICAL_TOLERANCE = 0.02  # of the audio's standard deviation, where the file has no figure


class _Request:
    """One fixture's models and inputs; every way of speaking is done once."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        self.stages = _stages(fixture)
        self.conditions = _conditions(fixture.inputs)
        self.tokens = fixture.inputs["source_speech_token"].reshape(-1).astype(np.int32)
        self.config = _schedule(fixture.config)
        given = fixture.inputs.get("noise")
        buffer = noise.official_noise() if given is None else np.asarray(given[0], np.float32).T
        self.inputs: dict[str, Any] = {"noise": buffer, "config": self.config}
        self._whole: dict[float, Chunk] = {}
        self._chunks: list[Chunk] = []

    def chunks(self) -> list[Chunk]:
        """All tokens at once, spoken in chunks."""
        if not self._chunks:
            pieces = [self.tokens]
            self._chunks = list(
                official_stream.stream(self.stages, self.conditions, pieces, **self.inputs)
            )
        return self._chunks

    def whole(self, speed: float) -> np.ndarray:
        if speed not in self._whole:
            self._whole[speed] = official_stream.speak_whole(
                self.stages, self.conditions, self.tokens, speed=speed, **self.inputs
            )
        return self._whole[speed].wav

    def hop_after(self) -> int:
        """What the official model's hop has grown to after this request."""
        chunks = self.chunks()
        return chunks[-1].next_hop if chunks else self.config.first_hop

    def audio_check(self, name: str, wav: np.ndarray, expected: np.ndarray) -> Check:
        """By the root mean square, within what a tiny error of the mel does to the audio."""
        given = self.fixture.meta.get(SENSITIVITY_KEY, {})
        levels = {float(level): figures for level, figures in given.items()}
        if MEL_ERROR not in levels:
            tolerance, source = TYPICAL_TOLERANCE, "as in the first golden file"
        else:
            rms = levels[MEL_ERROR]["all_rms"]
            tolerance, source = rms / float(np.std(expected)), "by the golden file's own figure"
        reason = (
            f"F0 errors are integrated into phase; mel noise of {MEL_ERROR:g} does this, {source}"
        )
        return Check(name, wav, expected, tolerance, reason, measure="rms")


def _stages(fixture: Fixture) -> Stages:
    sizes = fixture.config
    part = lambda name: {
        key.removeprefix(name + "."): value
        for key, value in fixture.weights.items()
        if key.startswith(name + ".")
    }
    flow_meta = {"config": {**sizes.get("flow", {}), "cfm": sizes.get("cfm", {})}}
    flow_fixture = dataclasses.replace(fixture, meta=flow_meta)
    vocoder, variables = load_vocoder(part("hift"), sizes.get("hift", {}), fixture.name)
    return Stages(
        flow=Stage(*load_flow(flow_fixture, part("flow"))),
        vocoder=Stage(vocoder, variables["params"]),
    )


def _conditions(inputs: Mapping[str, np.ndarray]) -> Conditions:
    return Conditions(
        lm_text_tokens=NO_TOKENS,
        lm_speech_tokens=NO_TOKENS,
        flow_tokens=inputs["flow_prompt_speech_token"].reshape(-1).astype(np.int32),
        flow_mel=np.asarray(inputs["prompt_speech_feat"][0], np.float32),
        speaker_embedding=np.asarray(inputs["flow_embedding"], np.float32).reshape(-1),
    )


def _schedule(config: Mapping[str, Any]) -> OfficialStreamConfig:
    names = {
        "first_hop": "token_hop_len",
        "max_hop": "token_max_hop_len",
        "hop_growth": "stream_scale_factor",
        "overlap_frames": "mel_cache_len",
    }
    given = {ours: int(config[theirs]) for ours, theirs in names.items() if theirs in config}
    return OfficialStreamConfig(**given)


def run(fixture: Fixture) -> Iterator[Check]:
    """Lengths, calls and the hop exactly; audio by its root mean square."""
    request = _Request(fixture)
    for name, expected in fixture.outputs.items():
        yield _check(request, name, expected)


def _check(request: _Request, name: str, expected: np.ndarray) -> Check:
    if name == "stream_chunk_lens":
        return Check(name, np.array([len(chunk.wav) for chunk in request.chunks()]), expected)
    if name.startswith("flow_calls"):
        rows = [_call_row(name, chunk) for chunk in request.chunks()]
        return Check(name, np.array(rows), expected)
    if name.startswith("token_hop_len_after"):
        return Check(name, np.full(expected.shape, request.hop_after()), expected)
    if match := LENGTH_NAME.fullmatch(name):
        return Check(name, np.full(expected.shape, len(_audio(request, match))), expected)
    if match := AUDIO_NAME.fullmatch(name):
        wav = _excerpt(_audio(request, match), name)
        return request.audio_check(name, wav.reshape((1,) * (expected.ndim - 1) + (-1,)), expected)
    raise KeyError(f"no comparison for out.{name}")


def _audio(request: _Request, match: re.Match[str]) -> np.ndarray:
    if match["kind"] == "stream":
        return np.concatenate([chunk.wav for chunk in request.chunks()])
    return request.whole(float((match["speed"] or "1").replace("p", ".")))


def _excerpt(wav: np.ndarray, name: str) -> np.ndarray:
    """The part that `_first_<n>`, `_last_<n>` or `_every<n>` of a name asks for."""
    if match := re.search(r"_every_?(\d+)", name):
        wav = wav[:: int(match[1])]
    if match := re.search(r"_(first|last)_?(\d+)", name):
        count = int(match[2])
        return wav[:count] if match[1] == "first" else wav[-count:]
    return wav


def _call_row(name: str, chunk: Chunk) -> list[int]:
    """The columns in the order in which the tensor's name lists them."""
    columns = {
        "token": chunk.call.num_tokens,
        "streaming": int(chunk.call.streaming),
        "finalize": int(chunk.call.finalize),
        "mellen": chunk.num_frames,
        "offset": chunk.call.num_spoken,
    }
    asked = [word for word in name.split("_")[2:] if word in columns]
    return [columns[word] for word in asked or ("token", "streaming", "finalize", "mellen")]


FIXTURES = {"stream_token2wav": run}
