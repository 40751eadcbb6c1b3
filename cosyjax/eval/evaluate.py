"""One run of `cosyjax eval`: list, judges and source to a result, its JSON and its report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cosyjax
from cosyjax.errors import InputError
from cosyjax.eval import judges, lists, report, run, speech, text_norm, voices
from cosyjax.infer import synthesize
from cosyjax.infer.synthesize import Synthesizer
from cosyjax.io.atomic import atomic_file, check_folder

AUTO, AUTO_SPEAKER = "auto", "resemblyzer"
PACKAGES = (
    *("jax", "numpy", "faster-whisper", "ctranslate2", "whisper-normalizer", "zhconv", "opencc"),
    *("funasr", "modelscope", "transformers", "torch", "resemblyzer", "speechmos", "distillmos"),
)
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be judged, and by whom."""

    sentences: Path  # the list
    asr: str  # see `judges.load_recognizer`
    source: str = "synthesis"  # synthesis, stream, resynthesis, recordings or wavs
    seed_list: bool = False  # the list is one of SEED-TTS-eval whatever its suffix
    lang: str | None = None  # of sentences whose list names none
    languages: tuple[str, ...] = ()  # only these; all where none is named
    limit: int | None = None  # sentences
    bundle: Path | None = None  # for the sources that speak
    dtype: str | None = None
    voices: str | None = None  # see `voices.assign`
    wavs: Path | None = None  # for source "wavs"
    references: Path | None = None  # a manifest with recordings of the voices
    speaker: str = AUTO  # see `judges.load_speaker`
    mos: str = judges.NONE  # see `judges.load_mos`
    seed: int = 0


def evaluate(
    request: Request,
    tell: Tell = lambda line: None,
    *,
    json_path: Path | None = None,
    report_path: Path | None = None,
) -> dict[str, Any]:
    """Runs a request and writes what was asked for.

    Args:
      request: what and by whom.
      tell: called with lines of progress.
      json_path: file for the result.
      report_path: folder for the report.

    Returns:
      The result, as the JSON holds it.

    Raises:
      InputError: anything wrong with the request; where it can be known, before any work.
    """
    if report_path is not None:
        check_folder(report_path, force=True, marks=(report.INDEX,))
    known = lists.read_list(request.sentences, request.lang, seed_list=request.seed_list)
    items = lists.choose(known, request.languages, request.limit)
    known = lists.read_list(request.references) if request.references else known
    judging = _load_judges(request, items, tell)
    tts = synthesize.load(request.bundle, dtype=request.dtype) if request.bundle else None
    source = _make_source(request, items, tts, tell)
    references = None
    if judging.speaker is not None:
        embedded = judging.speaker.embed
        embed = lambda wav, rate_hz: embedded(voices.to_judge_rate(wav, rate_hz))
        asked = {job.voice for job in source.jobs}
        references = voices.make_references(asked, known, tts, embed)
    tell(f"{len(source.jobs)} clips ({source.kind})")
    gallery = run.Gallery(report.NUM_WORST) if report_path else None
    rows = run.judge(source, judging, references, tell=tell, gallery=gallery)
    result = _result(request, rows, judging, references)
    if json_path is not None:
        with atomic_file(json_path) as partial:
            partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
        tell(f"wrote {json_path}")
    if report_path is not None and gallery is not None:
        report.write_report(report_path, result, gallery)
        tell(f"wrote {report_path / report.INDEX}")
    return result


def _load_judges(request: Request, items: list[lists.Item], tell: Tell) -> run.Judges:
    recognizer = judges.load_recognizer(request.asr)
    if recognizer is not None:
        for lang in {item.lang for item in items}:
            text_norm.units("", lang)  # a package that is missing is told before hours of work
        if any(lists.short_lang(i.lang) == "zh" for i in items) and not text_norm.simplifies():
            tell("neither zhconv nor opencc is installed: traditional characters count as errors")
    speaker = request.speaker
    if speaker == AUTO:
        speaker = AUTO_SPEAKER if importlib.util.find_spec(AUTO_SPEAKER) else judges.NONE
    mos = judges.load_mos(request.mos)
    return run.Judges(recognizer, judges.load_speaker(speaker), mos)


def _make_source(
    request: Request, items: list[lists.Item], tts: Synthesizer | None, tell: Tell
) -> speech.Source:
    if request.source == "recordings":
        return speech.recordings(items)
    if request.source == "wavs":
        if request.wavs is None:
            raise InputError("source 'wavs' needs the folder with the audio")
        return speech.files(items, request.wavs)
    if tts is None:
        raise InputError(f"source {request.source!r} needs a bundle")
    if request.source == "resynthesis":
        return speech.resynthesis(items, tts, request.seed)
    pairs, left_out = voices.assign(items, tts, request.voices)
    if left_out:
        speakers = ", ".join(sorted({item.speaker or "(none)" for item in left_out}))
        tell(f"{len(left_out)} sentences left out: no voice of the bundle is called {speakers}")
    return speech.synthesis(pairs, tts, request.seed, stream=request.source == "stream")


def _result(
    request: Request,
    rows: list[run.Row],
    judging: run.Judges,
    references: voices.References | None,
) -> dict[str, Any]:
    names = {
        "recognizer": judging.recognizer.name if judging.recognizer else None,
        "speaker": judging.speaker.name if judging.speaker else None,
        "mos": ", ".join(judge.name for judge in judging.mos.values()) or None,
    }
    return {
        **run.summarize(rows, request.seed),
        "source": request.source,
        "seed": request.seed,
        "judges": names,
        "references": references.origin if references else {},
        "by_lang": run.breakdown(rows, "lang", request.seed),
        "by_voice": run.breakdown(rows, "voice", request.seed),
        "command": shlex.join(["cosyjax", *sys.argv[1:]]),
        "versions": _versions(),
        "utterances": rows,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cosyjax": cosyjax.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table_lines(result: dict[str, Any]) -> list[str]:
    """The table of the report as lines of text."""
    rows = report.table(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    align = lambda row: [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    return ["  ".join(align(row)).rstrip() for row in rows]
