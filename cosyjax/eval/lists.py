"""What is to be said or scored: a plain file, a corpus manifest, or a SEED-TTS-eval list.

plain     one sentence a line; blank lines and lines that begin with # are skipped
.jsonl    rows with text, and where known id, path (FILE or SHARD.tar/MEMBER), speaker, lang
.lst      id|prompt transcript|prompt recording|text[|recording], paths relative to the list
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosyjax.data import clips, sources
from cosyjax.errors import InputError
from cosyjax.io import audio
from cosyjax.text.normalize import is_only_punctuation

SEED_SUFFIX = ".lst"
SEED_FIELDS = "id|prompt transcript|prompt recording|text[|recording]"


class Item(NamedTuple):
    """A sentence, and what a list says about it."""

    id: str
    text: str
    lang: str  # two letters where the list does not say otherwise
    place: str  # FILE:LINE, for messages
    speaker: str = ""  # who says it in the recording, or whose prompt it is
    recording: str = ""  # FILE or SHARD.tar/MEMBER in which the sentence is said
    prompt: str = ""  # a recording of the voice to be cloned
    prompt_text: str = ""  # what is said in it


def read_list(path: Path, lang: str | None = None, *, seed_list: bool = False) -> list[Item]:
    """Reads any of the three kinds.

    Args:
      path: .jsonl is a manifest, .lst a SEED-TTS-eval list, everything else plain text.
      lang: language of sentences whose list names none; by default told from the script.
      seed_list: read it as a SEED-TTS-eval list whatever its suffix.

    Raises:
      InputError: unreadable, a line that does not parse, an id given twice, or no sentence.
    """
    lines = list(_lines(path))
    if seed_list or path.suffix == SEED_SUFFIX:
        items = [_seed_item(path, place, line, lang) for place, line in lines]
    elif path.suffix == ".jsonl":
        items = [_manifest_item(path, place, line, lang) for place, line in lines]
    else:
        items = [
            Item(f"{number:04d}", line, lang or sources.guess_lang(line), place)
            for number, (place, line) in enumerate(_sentences(lines), 1)
        ]
    if not items:
        raise InputError(f"{path}: holds no sentence; give one a line")
    _check(items)
    return items


def choose(items: Sequence[Item], languages: Sequence[str], limit: int | None) -> list[Item]:
    """Keeps the named languages (all where none is named), and `limit` items spread evenly.

    Raises:
      InputError: nothing is left.
    """
    kept = [item for item in items if not languages or short_lang(item.lang) in languages]
    if not kept:
        there = ", ".join(sorted({short_lang(item.lang) for item in items}))
        raise InputError(f"no sentence in {', '.join(languages)}; the list has: {there}")
    if limit is None or limit >= len(kept):
        return kept
    if limit < 1:
        raise InputError(f"limit={limit}; at least one sentence is needed")
    return [kept[index * len(kept) // limit] for index in range(limit)]


def short_lang(lang: str) -> str:
    """en-US and EN to en."""
    return lang.replace("_", "-").split("-")[0].lower()


def read_wav(locator: str, place: str) -> tuple[np.ndarray, int]:
    """Decodes the recording at FILE or SHARD.tar/MEMBER: wav [N] and its rate in Hz.

    Raises:
      InputError: it cannot be read or is no audio, naming `place`.
    """
    encoded = read_recording(locator, place)
    try:
        return audio.read_raw(encoded)
    except InputError as error:
        raise InputError(f"{place}: {locator}: {error}") from error


def read_recording(locator: str, place: str) -> bytes:
    """Reads the encoded file at FILE or SHARD.tar/MEMBER.

    Raises:
      InputError: it cannot be read, naming `place`.
    """
    try:
        return clips.read_bytes(sources.Clip("", locator, "", "", ""))
    except clips.Rejected as error:
        raise InputError(f"{place}: {locator}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(FILE:LINE, text) of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _sentences(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((place, line) for place, line in lines if not line.startswith("#"))


def _manifest_item(path: Path, place: str, line: str, lang: str | None) -> Item:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: the line is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: holds a {type(row).__name__}; an object is needed")
    text, recording = _first(row, sources.TEXT_KEYS), _first(row, sources.PATH_KEYS)
    stem = Path(recording).with_suffix("").as_posix() if recording else place.rpartition(":")[2]
    return Item(
        id=str(row.get("id") or stem),
        text=text,
        lang=str(row.get("lang") or row.get("language") or lang or sources.guess_lang(text)),
        place=place,
        speaker=_first(row, sources.SPEAKER_KEYS),
        recording=str(path.parent / recording) if recording else "",
    )


def _seed_item(path: Path, place: str, line: str, lang: str | None) -> Item:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) not in (4, 5):
        raise InputError(f"{place}: {len(fields)} fields; needed: {SEED_FIELDS}")
    name, prompt_text, prompt, text, *target = fields
    if not (name and prompt):
        raise InputError(f"{place}: the id or the prompt recording is empty; {SEED_FIELDS}")
    return Item(
        id=name,
        text=text,
        lang=lang or sources.guess_lang(text),
        place=place,
        speaker=Path(prompt).stem,
        recording=str(path.parent / target[0]) if target and target[0] else "",
        prompt=str(path.parent / prompt),
        prompt_text=prompt_text,
    )


def _first(row: dict[str, Any], keys: Iterable[str]) -> str:
    return next((str(row[key]).strip() for key in keys if row.get(key) is not None), "")


def _check(items: Iterable[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if is_only_punctuation(item.text.replace(" ", "")):
            raise InputError(f"{item.place}: the sentence has no words: {item.text[:40]!r}")
        if item.id in seen:
            raise InputError(f"{item.place}: id {item.id!r} is also that of {seen[item.id]}")
        seen[item.id] = item.place
