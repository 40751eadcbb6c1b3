"""Where the audio to be judged comes from: recordings, files of any system, or a bundle.

A source is a list of jobs and a function that gives the audio of one. Everything that can be
wrong with a job is found when the source is made, before hours of other work.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from cosyjax import shapes
from cosyjax.data.sources import AUDIO_SUFFIXES
from cosyjax.errors import InputError
from cosyjax.eval.lists import Item, read_recording, read_wav
from cosyjax.infer import chunks, prompt, speak
from cosyjax.infer.synthesize import Synthesizer
from cosyjax.infer.voice import Voice
from cosyjax.io import audio

FIRST_AUDIO_JOBS = 20  # of a whole-utterance run that are started as a stream too
_COMPILED = "/jax/core/compile/backend_compile_duration"
Result = TypeVar("Result")


class Job(NamedTuple):
    """One utterance to judge."""

    id: str
    item: Item
    voice: str  # asked for; "" where nobody knows


class Spoken(NamedTuple):
    """Its audio."""

    wav: np.ndarray  # [N] float32
    sample_rate_hz: int
    taken_s: float | None = None  # to make it, in a process that has compiled everything
    first_audio_s: float | None = None  # until the first chunk of a stream


class Source(NamedTuple):
    """Jobs, and what speaks them."""

    kind: str
    jobs: list[Job]
    speak: Callable[[Job], Spoken]


def recordings(items: Sequence[Item]) -> Source:
    """The list's own recordings: what the judges make of the best there can be.

    Raises:
      InputError: a sentence without a recording, or one that cannot be read.
    """
    _check_recordings(items)
    jobs = [Job(item.id, item, item.speaker) for item in items]
    return Source("recordings", jobs, lambda job: Spoken(*_recorded(job)))


def _check_recordings(items: Sequence[Item]) -> None:
    for item in items:
        if not item.recording:
            raise InputError(f"{item.place}: names no recording of {item.text[:40]!r}")
        read_recording(item.recording, item.place)


def _recorded(job: Job) -> tuple[np.ndarray, int]:
    return read_wav(job.item.recording, job.item.place)


def files(items: Sequence[Item], folder: Path) -> Source:
    """Audio that any system made, in files named by the sentences' ids.

    Raises:
      InputError: no folder, or sentences without a file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with files named by id (ID.wav)")
    paths: dict[str, Path] = {}
    for item in items:
        near = [folder / (item.id + suffix) for suffix in AUDIO_SUFFIXES]
        paths |= {item.id: path for path in near if path.is_file()}
    missing = [item.id for item in items if item.id not in paths]
    if missing:
        raise InputError(
            f"{folder}: no audio for {len(missing)} of {len(items)} sentences: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; files are named by id"
        )
    jobs = [Job(item.id, item, item.speaker) for item in items]
    return Source("wavs", jobs, lambda job: Spoken(*audio.read_raw(paths[job.id])))


def resynthesis(items: Sequence[Item], tts: Synthesizer, seed: int) -> Source:
    """Each recording to speech tokens and back: what flow and vocoder make of perfect tokens.

    The voice is the bundle's of the speaker's name; where it has none, the speaker embedding of
    the recording itself, without a prompt.
    """
    _check_recordings(items)
    known = set(tts.voices())

    def speak_again(job: Job) -> Spoken:
        wav, rate_hz = _recorded(job)
        wav_16k = prompt.resampled(wav, rate_hz, shapes.TOKENIZER_RATE_HZ)
        tokens = prompt.speech_tokens(tts.stages, wav_16k)
        if job.voice in known:
            conditions = tts.conditions(job.voice)
        else:
            embedding = prompt.speaker_embedding(tts.stages, wav_16k)
            conditions = speak.make_conditions(Voice(job.voice, embedding), "sft", [])
        key = jax.random.fold_in(jax.random.key(seed), 0)
        make = lambda: chunks.tokens_to_wav(
            tts.stages, tokens, conditions, key, tts.bundle.noise, config=tts.config
        )
        made, taken_s = timed(make)
        return Spoken(made, tts.sample_rate_hz, taken_s)

    return Source("resynthesis", [Job(i.id, i, i.speaker) for i in items], speak_again)


def synthesis(
    pairs: Sequence[tuple[Item, str]], tts: Synthesizer, seed: int, *, stream: bool = False
) -> Source:
    """Text to speech.

    Args:
      pairs: sentences and their voices: names in the bundle, or "" for the item's own prompt.
      tts: the loaded bundle.
      seed: of every utterance.
      stream: judge the chunks of a stream, joined, in place of whole utterances.

    Raises:
      InputError: a text that cannot be spoken or a voice that is not there.
    """
    for item, voice in pairs:
        try:
            tts.pieces(item.text)
            tts.conditions(voice) if voice else prompt.read_prompt(item.prompt)
        except InputError as error:
            raise InputError(f"{item.place}: {error}") from error
    several = len({voice for _, voice in pairs}) > 1
    jobs = [
        Job(f"{voice}/{item.id}" if several else item.id, item, voice or item.speaker)
        for item, voice in pairs
    ]
    step = max(1, len(jobs) // FIRST_AUDIO_JOBS)
    started = {job.id for job in jobs[::step][:FIRST_AUDIO_JOBS]}
    by_prompt = {job.id for job, (_, voice) in zip(jobs, pairs) if not voice}

    def say(job: Job) -> Spoken:
        voice: str | Voice = job.voice
        if job.id in by_prompt:
            voice = tts.clone(job.item.prompt, job.item.prompt_text)
        if stream:
            return _streamed(tts, job.item.text, voice, seed)
        speech, taken_s = timed(lambda: tts.synthesize(job.item.text, voice, seed=seed))
        first_s = _first_audio(tts, job.item.text, voice, seed) if job.id in started else None
        return Spoken(speech.wav, speech.sample_rate_hz, taken_s, first_s)

    return Source("stream" if stream else "synthesis", jobs, say)


def _streamed(tts: Synthesizer, text: str, voice: str | Voice, seed: int) -> Spoken:
    def run() -> tuple[np.ndarray, float | None]:
        start, first_s, made = time.perf_counter(), None, [np.zeros(0, np.float32)]
        for chunk in tts.stream(text, voice, seed=seed):
            made.append(chunk)
            first_s = first_s or time.perf_counter() - start
        return np.concatenate(made), first_s

    (wav, first_s), taken_s = timed(run)
    return Spoken(wav, tts.sample_rate_hz, taken_s, first_s)


def _first_audio(tts: Synthesizer, text: str, voice: str | Voice, seed: int) -> float | None:
    """Seconds from the text to the first chunk; the rest of the stream is not computed."""

    def run() -> bool:
        return next((True for _ in tts.stream(text, voice, seed=seed)), False)

    spoke, taken_s = timed(run)
    return taken_s if spoke else None


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Runs `work`, and again if a program was compiled in it: times are those of a warm process.

    Returns:
      what the last run gave, and its seconds.
    """
    counter = _compilations()
    for _ in range(2):
        before, start = len(counter), time.perf_counter()
        result = work()
        taken_s = time.perf_counter() - start
        if len(counter) == before:
            break
    return result, taken_s


@functools.cache
def _compilations() -> list[float]:
    """Grows with every program that this process compiles or loads."""
    seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return seconds
