"""A tiny synthesizer of random weights that streams: letters in, chunks of sound out."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.speak import Conditions, SynthesisConfig, text_to_tokens
from cosyjax.infer.stages import Stage, Stages
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.streaming import Streamer, StreamSetup
from cosyjax.models import text_speech_lm
from cosyjax.models.text_speech_lm import TextSpeechLM, TextSpeechLMConfig
from tests.drawn import drawn
from tests.tiny_stream import FLOW, Heard, speaker, voice, whole

LM = TextSpeechLMConfig(
    *(1, 12, 4, 2, 4, 20),
    rope_theta=100.0,
    text_vocab_size=30,
    codebook_size=FLOW.vocab_size,
    mix_ratio=(4, 6),
)
SAMPLING = SamplingConfig(method="random", runaway_window=0)
RATIOS = SynthesisConfig(
    min_tokens_per_text_token=1.0, max_tokens_per_text_token=3.0, num_steps=FLOW.num_steps
)
PROMPTS = {"plain": 0, "short": 7, "long": 12}  # voices, and the tokens of their prompts
SETUP = StreamSetup(
    batch=2, schedule=StreamConfig(5, 10), max_seconds=4.0, max_piece_tokens=48, max_text_tokens=32
)


def encode(text: str) -> list[int]:
    """A letter is a token."""
    return [1 + ord(letter) % 29 for letter in text]


def pieces(text: str) -> list[str]:
    """Sentences are spoken one by one; digits cannot be."""
    if not any(letter.isalpha() for letter in text):
        raise InputError(f"nothing to speak in {text!r}")
    return [part.strip() + "." for part in text.split(".") if part.strip()]


@functools.cache
def lm() -> Stage:
    """The language model; of the three ends it draws eos alone."""
    params = drawn(lambda key: text_speech_lm.init_params(LM, key))
    params["head"]["bias"][FLOW.vocab_size + 1 :] = -1e4
    return Stage(TextSpeechLM(LM), params)


def conditions(name: str, *_: Any) -> Conditions:
    """What the models see of a voice."""
    if name not in PROMPTS:
        raise InputError(f"no voice {name!r}")
    return voice(PROMPTS[name], seed=PROMPTS[name])


@functools.cache
def tts() -> Any:
    """As much of a `Synthesizer` as streaming asks for."""
    models, (flow, vocoder) = speaker()
    stages = Stages(lm=lm(), flow=Stage(models.flow, flow), vocoder=Stage(models.vocoder, vocoder))
    return SimpleNamespace(
        stages=stages,
        tokenizer=SimpleNamespace(encode=encode),
        bundle=SimpleNamespace(config=SimpleNamespace(sampling=SAMPLING), noise=None),
        config=RATIOS,
        pieces=pieces,
        voice=lambda name: name or "plain",
        conditions=conditions,
    )


@functools.cache
def streamer(**changes: Any) -> Streamer:
    """Streams of the tiny synthesizer."""
    return Streamer(tts(), dataclasses.replace(SETUP, **changes))


def said_whole(text: str, name: str = "plain", seed: int = 0) -> Heard:
    """What the pieces of a text say at once, in the voice and with the seed."""
    own, key = streamer(), jax.random.key(seed)
    tokens = [
        text_to_tokens(
            tts().stages,
            np.asarray(encode(piece), np.int32),
            conditions(name),
            jax.random.fold_in(key, index),
            SAMPLING,
            RATIOS,
        )
        for index, piece in enumerate(pieces(text))
    ]
    models = own.speaker.models
    return whole(
        conditions(name), np.concatenate(tokens), jax.random.fold_in(key, 0), models=models
    )
