"""Voices to be built into a bundle, as a list: one JSON object a line, the default voice first.

    {"name": "anna", "path": "anna.flac", "text": "What is said.", "lang": "en", "note": "..."}

`path` is a recording or SHARD.tar/MEMBER, relative to a folder; `lang`, `note` and `mode` may miss.
`mode` says what is kept of the recording: "zero_shot" (everything), "cross_lingual" (not what is
said in it) or "sft" (the embedding alone: a voice that the flow was trained on needs no more, and
speaks sooner without a prompt).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cosyjax.errors import InputError, nearest
from cosyjax.infer import prompt
from cosyjax.infer.bundle import Bundle
from cosyjax.infer.compute import EXACT
from cosyjax.infer.stages import make_stages
from cosyjax.infer.voice import Voice
from cosyjax.text import normalize

# (FILE or SHARD.tar/MEMBER, FILE:LINE of the list for messages) -> bytes of an audio file.
Read = Callable[[str, str], bytes]
STAGES = {"speech_tokenizer": "speech_tokenizer", "speaker_encoder": "speaker_encoder"}
KEPT = ("zero_shot", "cross_lingual", "sft")


class Row(NamedTuple):
    """A voice to be made."""

    place: str  # FILE:LINE
    name: str
    path: str
    text: str
    lang: str = ""
    note: str = ""
    mode: str = KEPT[0]


def read_voice_list(path: Path) -> list[Row]:
    """Reads a list of voices.

    Raises:
      InputError: unreadable, a line that does not parse, a key that is unknown or missing, a name
        given twice, or no voice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    rows = [_row(f"{path}:{i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{path}: holds no voice; give one JSON object a line")
    seen: dict[str, str] = {}
    for row in rows:
        if row.name in seen:
            raise InputError(f"{row.place}: voice {row.name!r} is also that of {seen[row.name]}")
        seen[row.name] = row.place
    return rows


def _row(place: str, line: str) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: the line is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{place}: holds a {type(values).__name__}; an object is needed")
    known = Row._fields[1:]
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{place}: no key {key!r}; {nearest(key, known)}")
        if not isinstance(value, str):
            raise InputError(f"{place}: {key}={value!r}; text is needed")
    for key in ("name", "path", "text"):
        if not values.get(key, "").strip():
            raise InputError(f"{place}: {key!r} is missing; name, path and text are needed")
    row = Row(place, **values)
    if row.mode not in KEPT:
        raise InputError(f"{place}: mode={row.mode!r}; {nearest(row.mode, KEPT)}")
    return row


def add_voices(bundle: Bundle, rows: Sequence[Row], root: Path, read: Read) -> Bundle:
    """Puts voices into a bundle in the place of its own; the first becomes the default.

    Args:
      bundle: with speech tokenizer and speaker encoder, in float32.
      rows: of the list.
      root: folder that the paths are relative to.
      read: gives the bytes of a recording.

    Raises:
      InputError: a model that is missing, or a recording that cannot serve, naming its line.
    """
    missing = [module for module in STAGES.values() if module not in bundle.params]
    if missing:
        raise InputError(f"voices need {' and '.join(missing)}, which the bundle lacks")
    needed = {module: bundle.params[module] for module in STAGES.values()}
    stages = make_stages(bundle.config, needed, EXACT, tuple(STAGES))
    made: dict[str, Voice] = {}
    for row in rows:
        try:
            encoded = read(str(root / row.path), row.place)
            text = normalize.normalize(row.text, normalize.load_spoken_forms())
            voice = prompt.make_voice(stages, encoded, text, name=row.name, note=row.note)
        except InputError as error:
            known = str(error).startswith(row.place)
            raise InputError(str(error) if known else f"{row.place}: {error}") from error
        made[row.name] = _kept(dataclasses.replace(voice, lang=row.lang), row.mode)
    config = dataclasses.replace(bundle.config, default_voice=rows[0].name)
    return dataclasses.replace(bundle, config=config, voices=made)


def _kept(voice: Voice, mode: str) -> Voice:
    """A voice that can be used in `mode` and those that need less."""
    if mode == "sft":
        embedding = voice.speaker_embedding
        return Voice(voice.name, embedding, note=voice.note, lang=voice.lang)
    return voice if mode == "zero_shot" else dataclasses.replace(voice, prompt_text="")
