"""Who is to speak what, and whether it sounds like them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError
from cosyjax.eval.judges import RATE_HZ
from cosyjax.eval.lists import Item, read_wav, short_lang
from cosyjax.eval.scores import cosine
from cosyjax.infer import buckets
from cosyjax.infer.synthesize import Synthesizer
from cosyjax.infer.vocode import mel_to_wav
from cosyjax.infer.voice import Voice

ALL, OWN, ROTATE, PROMPT = "all", "own", "rotate", "prompt"
CLIPS_PER_VOICE = 20  # the mean of an embedding moves little after ten
Embed = Callable[[np.ndarray, int], np.ndarray]  # (wav [N], its rate) -> embedding


def assign(
    items: Sequence[Item], tts: Synthesizer, asked: str | None
) -> tuple[list[tuple[Item, str]], list[Item]]:
    """Pairs sentences with voices.

    Args:
      items: the sentences.
      tts: the bundle.
      asked: "all" (each sentence in each voice of its language), "rotate" (each in one of them, in
        turn), "own" (each in that of its speaker), "prompt" (each in the voice of its prompt), or
        names with commas between; None for "prompt" where the list has prompts, else "all".

    Returns:
      pairs: of sentence and voice; "" stands for the sentence's own prompt.
      left_out: sentences whose speaker is no voice of the bundle.

    Raises:
      InputError: an unknown voice, or no voice at all.
    """
    known = tts.voices()
    asked = asked or (PROMPT if all(item.prompt for item in items) else ALL)
    if asked == PROMPT:
        bare = next((item for item in items if not item.prompt), None)
        if bare is not None:
            raise InputError(f"{bare.place}: has no prompt recording; name other voices")
        return [(item, "") for item in items], []
    if asked == OWN:
        pairs = [(item, item.speaker) for item in items if item.speaker in known]
        left_out = [item for item in items if item.speaker not in known]
        if not pairs:
            raise InputError(f"no speaker of the list is a voice of the bundle: {known}")
        return pairs, left_out
    names = known if asked in (ALL, ROTATE) else [name.strip() for name in asked.split(",")]
    langs = {name: tts.voice(name).lang for name in names}
    if not names:
        raise InputError("the bundle has no voice; clone one, or give a list with prompts")
    if asked not in (ALL, ROTATE):
        return [(item, name) for name in names for item in items], []
    fitting = {item.lang: _fitting(langs, item.lang) for item in items}
    if asked == ROTATE:
        turns: dict[str, Iterator[str]] = {k: itertools.cycle(v) for k, v in fitting.items()}
        return [(item, next(turns[item.lang])) for item in items], []
    return [(item, name) for name in names for item in items if name in fitting[item.lang]], []


def _fitting(langs: dict[str, str], lang: str) -> list[str]:
    """Voices of a language, or that say none; all of them where there is no such voice."""
    own = [name for name, theirs in langs.items() if theirs in ("", short_lang(lang))]
    return own or list(langs)


class Likeness(NamedTuple):
    """How one clip compares."""

    similarity: float | None  # cosine to the asked voice
    nearest: str | None  # which voice it is most like; None where there is one voice alone


class References(NamedTuple):
    """What each voice sounds like to the judge."""

    clips: dict[str, list[tuple[str, np.ndarray]]]  # {voice: (id of the sentence, unit embedding)}
    origin: dict[str, str]  # {voice: where its clips come from}

    def compare(self, embedding: np.ndarray, voice: str, own_id: str | None) -> Likeness:
        """Compares a clip with every voice.

        Args:
          embedding: of the clip.
          voice: asked for.
          own_id: the sentence whose recording the clip is or comes from: it is no reference.
        """
        likeness: dict[str, float] = {}
        for name, clips in self.clips.items():
            others = [vector for clip_id, vector in clips if clip_id != own_id]
            if others:
                likeness[name] = cosine(embedding, np.mean(others, axis=0))
        if voice not in likeness:
            return Likeness(None, None)
        nearest = max(likeness, key=lambda name: likeness[name]) if len(likeness) > 1 else None
        return Likeness(likeness[voice], nearest)


def make_references(
    names: Iterable[str], items: Sequence[Item], tts: Synthesizer | None, embed: Embed
) -> References:
    """Embeds what is known of each voice: recordings of its speaker, or else its prompt.

    A bundle keeps a prompt as mel, without its recording. Where no voice asked for has a recording,
    the prompts go through the bundle's own vocoder, which brings all voices a little nearer to what
    the bundle says. The two kinds are never compared with one another: what was vocoded would win.

    Args:
      names: the voices asked for.
      items: with recordings or prompts; their speakers are compared too.
      tts: the bundle, where there is one; its voices are compared too.
      embed: the judge.
    """
    asked = set(names)
    found = References({}, {})
    for name in sorted({item.speaker for item in items} - {""}):
        mine = [item for item in items if item.speaker == name]
        prompts = {item.prompt: item for item in mine if item.prompt}
        spoken = [item for item in mine if item.recording][:CLIPS_PER_VOICE]
        if prompts:
            clips = [("", _embedded(path, item, embed)) for path, item in prompts.items()]
            found.clips[name], found.origin[name] = clips, "prompt"
        elif spoken:
            clips = [(item.id, _embedded(item.recording, item, embed)) for item in spoken]
            found.clips[name], found.origin[name] = clips, f"recordings: {len(clips)}"
    if tts is None or asked & set(found.clips):
        return found
    return _vocoded_references(asked, tts, embed)


def _vocoded_references(names: set[str], tts: Synthesizer, embed: Embed) -> References:
    found = References({}, {})
    for name in sorted(names | set(tts.voices())):
        if name in tts.voices() and tts.voice(name).has_prompt:
            wav = _vocoded_prompt(tts, tts.voice(name))
            found.clips[name] = [("", _unit(embed(wav, tts.sample_rate_hz)))]
            found.origin[name] = "prompt, vocoded"
    return found


def to_judge_rate(wav: np.ndarray, rate_hz: int) -> np.ndarray:
    """[N] to [N'] float32 at 16 kHz, by a resampler that is not ours."""
    import soxr

    resampled = wav if rate_hz == RATE_HZ else soxr.resample(wav, rate_hz, RATE_HZ, quality="HQ")
    return np.ascontiguousarray(resampled, np.float32)


def _embedded(locator: str, item: Item, embed: Embed) -> np.ndarray:
    return _unit(embed(*read_wav(locator, item.place)))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _vocoded_prompt(tts: Synthesizer, voice: Voice) -> np.ndarray:
    stage = tts.stages.vocoder
    num_frames = len(voice.prompt_mel)
    size = buckets.bucket(num_frames, buckets.MEL_FRAMES, "prompt frames")
    mel = jnp.asarray(buckets.pad_to(voice.prompt_mel, size))[None]
    wav = mel_to_wav(stage.model, stage.params, mel, jnp.array([num_frames]), jax.random.key(0))
    return np.asarray(wav)[0, : shapes.SAMPLES_PER_FRAME * num_frames]
