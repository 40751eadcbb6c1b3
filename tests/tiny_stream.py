"""Tiny flow and causal vocoder that stream together, and the whole that a stream must equal."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from cosyjax.infer import acoustic_stream, voice_state
from cosyjax.infer.acoustic import tokens_to_mel
from cosyjax.infer.acoustic_state import AcousticModels, init_acoustic, put_row, reach
from cosyjax.infer.speak import NO_TOKENS, VOCODER_STREAM, Conditions
from cosyjax.infer.vocode import mel_to_wav
from cosyjax.models import vocoder
from cosyjax.models.flow import FlowConfig, FlowMatching
from cosyjax.models.hift import HiFTConfig
from tests.drawn import normal
from tests.tiny_flow import MELS, TINY, tiny_params

FLOW = dataclasses.replace(TINY, mask_chunk=5)
HIFT = HiFTConfig(
    num_mels=MELS,
    base_channels=4,
    upsample_rates=(4,),
    upsample_widths=(6,),
    block_widths=(3,),
    block_dilations=((2,),),
    source_block_widths=(3,),
    source_block_dilations=((1,),),
    n_fft=8,
    hop=2,
    f0_channels=4,
    f0_layers=2,
    num_harmonics=1,
    causal=True,
)
AHEAD = FLOW.encoder.lookahead
RATE = 2 * HIFT.samples_per_frame  # samples of a token


def vocoder_params(config: HiFTConfig = HIFT) -> Any:
    """Parameters of the size that training gives; some frames are unvoiced, none is clipped."""
    tree = jax.eval_shape(lambda: vocoder.init_params(config, jax.random.key(0)))
    stream = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        drawn = stream.standard_normal(leaf.shape)
        if path[-1].key == "scale":
            return np.full(leaf.shape, 0.7, np.float32)
        if path[-1].key.endswith("alpha"):
            return np.float32(1.0 + 0.2 * drawn)
        return np.float32(drawn * (math.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1))

    params = jax.tree_util.tree_map_with_path(draw, tree)
    params["f0_predictor"]["output"]["kernel"] *= np.float32(300.0)  # Hz
    params.get("filter", params)["last"]["bias"] -= np.float32(1.0)
    return params


@functools.cache
def speaker(config: HiFTConfig = HIFT) -> tuple[AcousticModels, Any]:
    """The models and their parameters; the vocoder folded, as inference has it."""
    made = []

    def fold(params: Any) -> Any:
        tree, folded = vocoder.fold_weight_norm(params, config)
        made.append(folded)
        return tree

    tree = jax.jit(fold)(vocoder_params(config))
    models = AcousticModels(FlowMatching(FLOW), vocoder.make_vocoder(made[0]))
    return models, (tiny_params(FLOW), tree)


def voice(num_prompt: int, seed: int = 0, flow: FlowConfig = FLOW) -> Conditions:
    """A voice with a prompt of so many tokens."""
    return Conditions(
        lm_text_tokens=NO_TOKENS,
        lm_speech_tokens=NO_TOKENS,
        flow_tokens=tokens(num_prompt, seed, flow),
        flow_mel=normal(2 * num_prompt, flow.estimator.num_mels, seed=seed + 1),
        speaker_embedding=normal(flow.speaker_dim, seed=seed + 2),
    )


def tokens(num: int, seed: int = 5, flow: FlowConfig = FLOW) -> np.ndarray:
    """Speech tokens that a language model might have said."""
    return np.random.default_rng(seed).integers(0, flow.vocab_size, num).astype(np.int32)


class Heard(NamedTuple):
    """What a row said."""

    mel: np.ndarray  # [F, M]
    wav: np.ndarray  # [N]


def whole(
    given: Conditions,
    spoken: np.ndarray,
    key: jax.Array,
    models: AcousticModels | None = None,
    config: HiFTConfig = HIFT,
    params: Any = None,
) -> Heard:
    """What prompt and tokens say at once, under the chunk mask."""
    own, own_params = speaker(config)
    models, params = models or own, params or own_params
    num_mels = models.flow.config.estimator.num_mels
    both = np.concatenate([given.flow_tokens, spoken])
    length = -(-len(both) // 64) * 64  # few programs for many tests
    num_prompt = len(given.flow_mel)
    frames = np.arange(2 * length)[None]
    noise = acoustic_stream.flow_noise(None, key[None], frames, np.array([num_prompt]), num_mels)
    mel = tokens_to_mel(
        models.flow,
        params[0],
        speech_tokens=np.pad(both, (0, length - len(both)))[None],
        num_tokens=np.array([len(both)], np.int32),
        prompt_mel=np.pad(given.flow_mel, ((0, 2 * length - num_prompt), (0, 0)))[None],
        speaker_embedding=given.speaker_embedding[None],
        noise=noise,
        streaming=True,
    )
    mel = np.asarray(mel)[:, num_prompt : 2 * len(both)]
    padded = np.pad(mel, ((0, 0), (0, 2 * length - mel.shape[1]), (0, 0)))
    counts = np.array([mel.shape[1]], np.int32)
    key = jax.random.fold_in(key, VOCODER_STREAM)
    wav = mel_to_wav(models.vocoder, params[1], padded, counts, key)
    return Heard(mel[0], np.asarray(wav)[0, : len(spoken) * wav.shape[1] // length])


class Stream:
    """One stream of several rows, driven by tokens that are known beforehand."""

    def __init__(
        self,
        batch: int,
        num_tokens: int,
        models: AcousticModels | None = None,
        config: HiFTConfig = HIFT,
        params: Any = None,
    ) -> None:
        own, own_params = speaker(config)
        self.models, self.params = models or own, params or own_params
        self.max_tokens = reach(self.models, num_tokens)
        self.state = init_acoustic(self.models, batch, self.max_tokens)
        self.waiting: list[np.ndarray | None] = [None] * batch
        self.mels: list[list[np.ndarray]] = [[] for _ in range(batch)]
        self.wavs: list[list[np.ndarray]] = [[] for _ in range(batch)]

    def join(self, row: int, given: Conditions, spoken: np.ndarray, key: jax.Array) -> None:
        """Lets a row begin to say tokens in a voice."""
        made = voice_state.voice_state(self.models, self.params, given)
        one = voice_state.begin_row(made.acoustic, key, self.max_tokens)
        self.state = jax.jit(put_row, donate_argnums=0)(self.state, row, one)
        self.waiting[row] = np.concatenate([np.asarray(made.tail)[: made.num_tail], spoken])
        self.mels[row], self.wavs[row] = [], []

    def step(self, chunk: int) -> None:
        """Speaks a chunk of every row that has not ended."""
        size = chunk + self.models.lookahead
        given = np.zeros((len(self.waiting), size), np.int32)
        num_valid, last = np.zeros(len(given), np.int32), np.zeros(len(given), bool)
        for row, left in enumerate(self.waiting):
            if left is None:
                continue
            num_valid[row], last[row] = min(len(left), size), len(left) <= chunk
            given[row, : num_valid[row]] = left[:size]
            self.waiting[row] = None if last[row] else left[chunk:]
        spoken, self.state = acoustic_stream.acoustic_step(
            self.models, self.params, given, self.state, num_valid=num_valid, last=last
        )
        for row in range(len(given)):
            self.mels[row].append(np.asarray(spoken.mel)[row, : spoken.num_frames[row]])
            self.wavs[row].append(np.asarray(spoken.wav)[row, : spoken.num_samples[row]])
            assert not np.any(np.asarray(spoken.wav)[row, spoken.num_samples[row] :])

    def run(self, *chunks: int) -> list[Heard]:
        """Speaks the given chunks, and the last one again until all rows have ended."""
        sizes = list(chunks)
        while any(left is not None for left in self.waiting):
            self.step(sizes.pop(0) if len(sizes) > 1 else sizes[0])
        return [self.heard(row) for row in range(len(self.waiting))]

    def heard(self, row: int) -> Heard:
        """What a row has said so far."""
        return Heard(np.concatenate(self.mels[row]), np.concatenate(self.wavs[row]))


def decibels(got: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return 10 * np.log10(np.sum(wanted**2) / max(np.sum((got - wanted) ** 2), 1e-30))


def assert_same(got: Heard, wanted: Heard) -> None:
    """The mel to 1e-4, the audio to 60 dB, and not a sample more or less."""
    assert got.mel.shape == wanted.mel.shape and got.wav.shape == wanted.wav.shape
    np.testing.assert_allclose(got.mel, wanted.mel, atol=1e-4, rtol=0)
    assert decibels(got.wav, wanted.wav) > 60
    assert np.std(wanted.wav) > 1e-3 and np.mean(np.abs(wanted.wav) > 0.98) < 0.05
