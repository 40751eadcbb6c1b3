"""Judges every utterance of a source and sums up: the figures of `cosyjax eval`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosyjax.data.progress import EVERY_S, clock
from cosyjax.eval import bootstrap, text_norm
from cosyjax.eval.judges import MosJudge, Recognizer, SpeakerJudge
from cosyjax.eval.lists import short_lang
from cosyjax.eval.scores import Errors, count_errors, error_rate
from cosyjax.eval.speech import Job, Source, Spoken
from cosyjax.eval.voices import References, to_judge_rate

SILENCE_PEAK = 1e-3  # -60 dBFS: nothing to judge
MAX_SHOWN = 40  # voices in a table or a gallery; lists with prompts have a thousand
ERROR_FIELDS = ("substitutions", "deletions", "insertions", "num_units")
OWN_RECORDING = ("recordings", "resynthesis", "wavs")  # sources whose clip may be a reference
Tell = Callable[[str], None]
Row = dict[str, Any]


class Judges(NamedTuple):
    """Who judges; None and {} for nobody."""

    recognizer: Recognizer | None = None
    speaker: SpeakerJudge | None = None
    mos: Mapping[str, MosJudge] = {}


class Clip(NamedTuple):
    """A row with its audio, for the report."""

    row: Row
    wav: np.ndarray
    sample_rate_hz: int


class Gallery:
    """The clips that a report shows: those with the most errors, and the first of each voice."""

    def __init__(self, num_worst: int) -> None:
        self._num_worst = num_worst
        self._worst: list[Clip] = []
        self._first: dict[str, Clip] = {}

    def add(self, clip: Clip) -> None:
        """Keeps the clip if it belongs to either kind."""
        if len(self._first) < MAX_SHOWN:
            self._first.setdefault(clip.row["voice"], clip)
        self._worst.append(clip)
        self._worst.sort(key=lambda one: (-(one.row["error_rate"] or 0.0), one.row["id"]))
        del self._worst[self._num_worst :]

    def worst(self) -> list[Clip]:
        """Clips with errors, the worst first."""
        return [clip for clip in self._worst if clip.row["error_rate"]]

    def first(self) -> list[Clip]:
        """A clip of each voice."""
        return list(self._first.values())


def judge(
    source: Source,
    judges: Judges,
    references: References | None,
    *,
    tell: Tell = lambda line: None,
    gallery: Gallery | None = None,
) -> list[Row]:
    """Speaks and judges the jobs of a source, one after another.

    Args:
      source: what is judged.
      judges: who judges.
      references: of the voices, where there is a speaker judge.
      tell: called with a line of progress every few seconds.
      gallery: shown each clip.

    Returns:
      A row per job; figures that nobody gave are None.
    """
    rows: list[Row] = []
    start = told = time.perf_counter()
    for job in source.jobs:
        spoken = source.speak(job)
        own_id = job.item.id if source.kind in OWN_RECORDING else None
        row = _judge_one(job, spoken, judges, references, own_id)
        rows.append(row)
        if gallery is not None:
            gallery.add(Clip(row, spoken.wav, spoken.sample_rate_hz))
        now = time.perf_counter()
        if now - told >= EVERY_S or len(rows) == len(source.jobs):
            told = now
            tell(_progress(rows, len(source.jobs), now - start))
    return rows


def _judge_one(
    job: Job, spoken: Spoken, judges: Judges, references: References | None, own_id: str | None
) -> Row:
    seconds = len(spoken.wav) / spoken.sample_rate_hz
    silent = not len(spoken.wav) or float(np.max(np.abs(spoken.wav))) < SILENCE_PEAK
    by_character = text_norm.is_by_character(job.item.lang)
    row: Row = {
        "id": job.id,
        "voice": job.voice,
        "lang": short_lang(job.item.lang),
        "text": job.item.text,
        "seconds": seconds,
        "silent": silent,
        "rtf": spoken.taken_s / seconds if spoken.taken_s is not None and seconds else None,
        "first_audio_ms": spoken.first_audio_s and 1000 * spoken.first_audio_s,
        "unit": "character" if by_character else "word",
        "heard": None,
        "error_rate": None,
        "similarity": None,
        "nearest": None,
        "mos": {},
    }
    wav_16k = np.zeros(0, np.float32)
    if not silent:
        wav_16k = to_judge_rate(spoken.wav, spoken.sample_rate_hz)
    if judges.recognizer is not None:
        # Silence is not shown to a recogniser, which may hear words in it: all words are missing.
        heard = "" if silent else judges.recognizer.transcribe(wav_16k, row["lang"])
        row |= _errors(job.item.text, heard, job.item.lang)
    if silent:
        return row
    if judges.speaker is not None and references is not None:
        found = references.compare(judges.speaker.embed(wav_16k), job.voice, own_id)
        row |= found._asdict()
    row["mos"] = {name: judge.score(wav_16k) for name, judge in judges.mos.items()}
    return row


def _errors(text: str, heard: str, lang: str) -> Row:
    errors = count_errors(text_norm.units(text, lang), text_norm.units(heard, lang))
    row = {"heard": heard, "error_rate": error_rate([errors])}
    return row | dict(zip(ERROR_FIELDS, errors, strict=True))


def _progress(rows: Sequence[Row], total: int, elapsed_s: float) -> str:
    done = len(rows)
    parts = [f"{done:,}/{total:,} clips"]
    for name in ("wer", "cer"):
        rate = error_summary(rows, name, None)[name]
        parts += [f"{name.upper()} so far {100 * rate:.1f} %"] if rate is not None else []
    left_s = elapsed_s / done * (total - done)
    parts.append(f"{clock(left_s)} left" if done < total else f"took {clock(elapsed_s)}")
    return ", ".join(parts)


def error_summary(rows: Sequence[Row], name: str, seed: int | None) -> Row:
    """Sums up the errors of one unit.

    Args:
      rows: of any languages.
      name: "wer" over languages with spaces, or "cer" over the others.
      seed: of the bootstrap; None for no interval.

    Returns:
      {name: edits over units of the references, name_ci, name_utterance_mean, num_words or
      num_characters}.
    """
    unit = "word" if name == "wer" else "character"
    scored = [row for row in rows if row["unit"] == unit and row["heard"] is not None]
    errors = [Errors(*(row[field] for field in ERROR_FIELDS)) for row in scored]
    counts, sizes = [one.num_edits for one in errors], [one.num_units for one in errors]
    interval = None if seed is None else bootstrap.rate_interval(counts, sizes, seed)
    return {
        name: error_rate(errors),
        f"{name}_ci": interval,
        f"{name}_utterance_mean": _mean(row["error_rate"] for row in scored),
        f"num_{unit}s": sum(sizes),
    }


def summarize(rows: Sequence[Row], seed: int) -> Row:
    """Sums up rows: error rates, likeness, opinions and speed, each with its 95 % interval.

    Args:
      rows: from `judge`.
      seed: of the bootstrap.
    """
    alike = [row["similarity"] for row in rows if row["similarity"] is not None]
    ranked = [row for row in rows if row["nearest"] is not None]
    taken = [row for row in rows if row["rtf"] is not None]
    audio_s = sum(row["seconds"] for row in taken)
    work_s = sum(row["rtf"] * row["seconds"] for row in taken)
    waits = [row["first_audio_ms"] for row in rows if row["first_audio_ms"] is not None]
    return {
        "num_utterances": len(rows),
        "num_silent": sum(row["silent"] for row in rows),
        "audio_s": sum(row["seconds"] for row in rows),
        **error_summary(rows, "wer", seed),
        **error_summary(rows, "cer", seed),
        "similarity": _mean(alike),
        "similarity_ci": bootstrap.mean_interval(alike, seed),
        "nearest_is_asked": _mean(float(row["nearest"] == row["voice"]) for row in ranked),
        "mos": _opinions(rows),
        "rtf": work_s / audio_s if audio_s else None,
        "first_audio_ms": float(np.median(waits)) if waits else None,
    }


def breakdown(rows: Sequence[Row], field: str, seed: int) -> dict[str, Row]:
    """{value of the field: summary of its rows}, over "voice" or "lang"."""
    values = sorted({row[field] for row in rows})
    return {v: summarize([row for row in rows if row[field] == v], seed) for v in values}


def _opinions(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    judged = [row["mos"] for row in rows if row["mos"]]
    if not judged:
        return {}
    mean = lambda name, kind: float(np.mean([one[name][kind] for one in judged]))
    return {name: {kind: mean(name, kind) for kind in judged[0][name]} for name in judged[0]}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
