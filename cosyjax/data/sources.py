"""Finds recordings and their transcripts in the layouts that speech corpora come in.

Known layouts: a manifest (.jsonl, or .tsv with a header), a folder of manifests with audio or tar
shards beside, LJSpeech (metadata.csv and wavs/), LibriTTS (speaker/chapter/*.normalized.txt), and
any folder of audio with a .txt of the same name beside each file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cosyjax.errors import InputError

AUDIO_SUFFIXES = (".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
TRANSCRIPTS = (".normalized.txt", ".txt")  # the first that is there counts
LAYOUTS = (
    "a .jsonl or .tsv manifest with `path` and `text`; a folder with such manifests, and audio or "
    ".tar shards beside; LJSpeech (metadata.csv, wavs/); LibriTTS; a folder of audio "
    f"({', '.join(AUDIO_SUFFIXES)}) with a .txt beside each file"
)
# Names that manifests of the field use for one thing; the first that is there counts.
PATH_KEYS = ("path", "audio", "audio_filepath", "audio_path", "wav")
TEXT_KEYS = ("text", "normalized_text", "transcript", "sentence")
SPEAKER_KEYS = ("speaker", "speaker_id", "spk")
SECONDS_KEYS = ("duration_s", "duration", "dur")
_LIBRI_SPLIT = re.compile("(train|dev|test)-(clean|other)")
_KANA = re.compile("[\u3040-\u30ff]")
_HAN = re.compile("[\u4e00-\u9fff]")
_HANGUL = re.compile("[\uac00-\ud7af]")


class Clip(NamedTuple):
    """A recording and what is said in it."""

    id: str
    locator: str  # a file, or SHARD.tar/MEMBER
    text: str
    speaker: str
    lang: str
    split: str | None = None  # "train", "heldout", or None: by the id
    stated_s: float | None = None  # length that the manifest states


class Rejection(NamedTuple):
    """A clip that is not used, and why."""

    id: str
    path: str
    reason: str


class Listing(NamedTuple):
    """Clips sorted by id, and what was refused by its listing alone."""

    clips: tuple[Clip, ...]
    rejected: tuple[Rejection, ...]


def discover(
    sources: Sequence[Path], lang: str | None = None, text_key: str | None = None
) -> Listing:
    """Lists the clips of one or more sources.

    Args:
      sources: manifests or folders.
      lang: the language of clips whose manifest has none; by default told from the script.
      text_key: what manifests call the transcript; by default one of TEXT_KEYS.

    Raises:
      InputError: a source is missing, has no known layout, or holds no clip.
    """
    found: list[Clip | Rejection] = []
    for source in sources:
        before = len(found)
        found += _list_one(Path(source), (text_key,) if text_key else TEXT_KEYS)
        if len(found) == before:
            raise InputError(f"{source}: holds no clips; known layouts: {LAYOUTS}")
    clips = [
        clip._replace(lang=clip.lang or lang or guess_lang(clip.text))
        for clip in found
        if isinstance(clip, Clip)
    ]
    rejected = [row for row in found if isinstance(row, Rejection)]
    unique: dict[str, Clip] = {}
    for clip in sorted(clips, key=lambda clip: (clip.id, clip.locator)):
        if clip.id in unique:
            reason = f"duplicated id, already {unique[clip.id].locator}"
            rejected.append(Rejection(clip.id, clip.locator, reason))
        else:
            unique[clip.id] = clip
    return Listing(tuple(unique.values()), tuple(sorted(rejected)))


def guess_lang(text: str) -> str:
    """ "ja", "zh" or "ko" by the script, else "en"."""
    for lang, script in (("ja", _KANA), ("zh", _HAN), ("ko", _HANGUL)):
        if script.search(text):
            return lang
    return "en"


def _list_one(source: Path, text_keys: Sequence[str]) -> Iterable[Clip | Rejection]:
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; known layouts: {LAYOUTS}")
    if source.is_file():
        if source.suffix not in (".jsonl", ".tsv"):
            raise InputError(f"{source}: not a manifest; known layouts: {LAYOUTS}")
        return _read_manifest(source, text_keys)
    if (source / "metadata.csv").is_file() and (source / "wavs").is_dir():
        return _read_ljspeech(source)
    manifests = _manifests(source)
    if manifests:
        return [row for manifest in manifests for row in _read_manifest(manifest, text_keys)]
    return _read_folder(source)


def _manifests(folder: Path) -> list[Path]:
    """Manifests of a folder, or else of its subfolders."""
    for depth in ("*", "*/*"):
        found = sorted(p for s in (".jsonl", ".tsv") for p in folder.glob(depth + s))
        if found:
            return found
    return []


def _read_manifest(path: Path, text_keys: Sequence[str]) -> Iterator[Clip | Rejection]:
    rows = _json_rows(path) if path.suffix == ".jsonl" else _tsv_rows(path, text_keys)
    for number, row in rows:
        place = f"{path}:{number}"
        if isinstance(row, str):
            yield Rejection(place, str(path), row)
            continue
        audio, text = _first(row, PATH_KEYS), _first(row, text_keys)
        if not isinstance(audio, str) or not audio:
            reason = f"the row names no file; one of {', '.join(PATH_KEYS)} is needed"
            yield Rejection(str(row.get("id") or place), str(path), reason)
            continue
        yield Clip(
            id=str(row.get("id") or Path(audio).with_suffix("").as_posix()),
            locator=str(path.parent / audio),
            text=str(text or "").strip(),
            speaker=str(_first(row, SPEAKER_KEYS) or ""),
            lang=str(row.get("lang") or row.get("language") or ""),
            split=_split(row.get("split")),
            stated_s=_seconds(_first(row, SECONDS_KEYS)),
        )


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(line number, the object or what is wrong with it) for each line that is not blank."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, f"the line is not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "the line is not a JSON object"


def _tsv_rows(path: Path, text_keys: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    lines = _decoded(path).splitlines()
    names = lines[0].split("\t") if lines else []
    if not set(names) & set(PATH_KEYS) or not set(names) & set(text_keys):
        raise InputError(
            f"{path}: the first line names the columns {names}; one of {', '.join(PATH_KEYS)} and "
            f"one of {', '.join(text_keys)} are needed"
        )
    for number, line in enumerate(lines[1:], 2):
        values = line.split("\t")
        if len(values) == len(names):
            yield number, dict(zip(names, values))
        elif line.strip():
            yield number, f"{len(values)} columns where the first line names {len(names)}"


def _read_ljspeech(folder: Path) -> Iterator[Clip | Rejection]:
    """Rows `id|text|text with numbers spelt out`; one speaker."""
    metadata = folder / "metadata.csv"
    reader = csv.reader(_decoded(metadata).splitlines(), delimiter="|", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(reader, 1):
        if len(row) < 2:
            if any(row):
                yield Rejection(f"{metadata}:{number}", str(metadata), "the row has no text")
            continue
        paths = [folder / "wavs" / (row[0] + suffix) for suffix in (".wav", *AUDIO_SUFFIXES)]
        path = next((path for path in paths if path.is_file()), paths[0])
        yield Clip(row[0], str(path), row[-1].strip(), folder.resolve().name, "")


def _read_folder(folder: Path) -> Iterator[Clip | Rejection]:
    """Audio with a transcript of the same name. The folder above names the speaker.

    In LibriTTS (speaker/chapter/clip) it is the one above that, and train-*, dev-* and test-* in
    the path tell the split.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        beside = [path.with_suffix(suffix) for suffix in TRANSCRIPTS]
        transcript = next((p for p in beside if p.is_file()), None)
        if transcript is None:
            reason = f"no transcript; {beside[-1].name} is needed beside it"
            yield Rejection(name, str(path), reason)
            continue
        try:
            text = transcript.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            yield Rejection(name, str(path), f"transcript {transcript.name} unreadable: {error}")
            continue
        libri = transcript.name.endswith(TRANSCRIPTS[0])
        speaker = path.parent.parent if libri else path.parent
        splits = _LIBRI_SPLIT.search(path.parent.as_posix()) if libri else None
        split = _split(splits[1]) if splits else None
        yield Clip(name, str(path), text, speaker.resolve().name, "", split)


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text: {error}") from error


def _first(row: dict[str, Any], keys: Iterable[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _split(name: Any) -> str | None:
    """What corpora call train* is for training; every other named split is held out."""
    if not name:
        return None
    return "train" if str(name).startswith("train") else "heldout"


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
