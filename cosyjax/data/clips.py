"""Reads clips and decides whether they are fit for training."""

from __future__ import annotations

import dataclasses
import functools
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosyjax.data.sources import Clip
from cosyjax.text.normalize import is_only_punctuation

OGG_HEADER_BYTES = 27
OGG_LAST_PAGE = 4  # flag of the page that ends a stream
UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # RIFF sizes of a writer that could not seek


class Rejected(Exception):
    """The clip is not used; the message says why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a clip must be."""

    min_s: float = 0.3
    max_s: float = 30.0  # one window of the speech tokenizer
    silence_peak: float = 1e-3  # -60 dBFS
    max_characters_per_s: float = 40.0  # of transcript; fast speech has 25
    stated_tolerance_s: float = 0.25  # against the length that a manifest states


def read_bytes(clip: Clip) -> bytes:
    """Reads the encoded file of a clip, also out of a tar shard.

    Raises:
      Rejected: there is none, or its shard ends before it does.
    """
    shard, inside, member = clip.locator.partition(".tar/")
    try:
        if not inside or Path(clip.locator).is_file():
            return Path(clip.locator).read_bytes()
        return _read_member(shard + ".tar", member)
    except OSError as error:
        raise Rejected(f"cannot be read: {error.strerror or error}") from error


class TarIndex(NamedTuple):
    """Where the members of a shard lie."""

    places: dict[str, tuple[int, int]]  # {name: (first byte, bytes)}
    size: int  # bytes of the shard
    problem: str  # why the list may be short; "" for a sound shard


@functools.lru_cache(maxsize=256)
def index_tar(path: str) -> TarIndex:
    """Lists the members of a shard up to where it is damaged."""
    places: dict[str, tuple[int, int]] = {}
    problem = ""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile():
                    places[member.name.removeprefix("./")] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        problem = f"; the shard is damaged: {error}"
    return TarIndex(places, Path(path).stat().st_size, problem)


def _read_member(path: str, name: str) -> bytes:
    index = index_tar(path)
    if name not in index.places:
        readable = f"{len(index.places)} readable members{index.problem}"
        raise Rejected(f"not in the shard {Path(path).name}, which has {readable}")
    first, count = index.places[name]
    if first + count > index.size:
        raise Rejected(
            f"truncated: the shard {Path(path).name} ends {first + count - index.size:,} bytes "
            "before the member does"
        )
    with open(path, "rb") as shard:
        shard.seek(first)
        return shard.read(count)


def check_text(clip: Clip) -> None:
    """Raises Rejected for a transcript that says nothing."""
    if not clip.text:
        raise Rejected("empty transcript")
    if is_only_punctuation(clip.text):
        raise Rejected(f"the transcript has no words: {clip.text[:40]!r}")


def check_audio(clip: Clip, encoded: bytes, limits: Limits = Limits()) -> float:
    """Decodes the whole file and judges it; returns its length in seconds.

    Raises:
      Rejected: unreadable, truncated, too short, too long, silent, not finite, or with more text
        than can be said in its time.
    """
    import soundfile

    truncated = _truncation(encoded)
    if truncated:
        raise Rejected(f"truncated: {truncated}")
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as sound:
            rate_hz, stated_samples = sound.samplerate, sound.frames
            _check_length(stated_samples / rate_hz, limits)
            samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        # The whole message names an address in memory, other in each run.
        said = getattr(error, "error_string", str(error))
        raise Rejected(f"not readable as audio: {said}") from error
    seconds = len(samples) / rate_hz
    if len(samples) < stated_samples:
        raise Rejected(f"truncated: {len(samples):,} of {stated_samples:,} samples decode")
    if clip.stated_s and abs(clip.stated_s - seconds) > limits.stated_tolerance_s:
        raise Rejected(f"{seconds:.2f} s decode where the manifest states {clip.stated_s:.2f} s")
    _check_length(seconds, limits)
    peak = float(np.max(np.abs(samples)))
    if not np.isfinite(peak):
        raise Rejected("holds samples that are not finite numbers")
    if peak < limits.silence_peak:
        raise Rejected(f"silent: peak {peak:.1e}")
    rate = len(clip.text) / seconds
    if rate > limits.max_characters_per_s:
        raise Rejected(
            f"{rate:.0f} characters of transcript per second of audio; at most "
            f"{limits.max_characters_per_s:.0f} can be said"
        )
    return seconds


def _check_length(seconds: float, limits: Limits) -> None:
    if seconds < limits.min_s:
        raise Rejected(f"{seconds:.2f} s long; at least {limits.min_s} s is needed")
    if seconds > limits.max_s:
        raise Rejected(f"{seconds:.1f} s long; at most {limits.max_s:.0f} s is used: split it")


def _truncation(encoded: bytes) -> str:
    """Tells by the container that a file is cut short; libsndfile reads what is there in silence.

    Returns "" for a sound file, and for containers that do not tell.
    """
    if encoded[:4] == b"RIFF":
        stated = int.from_bytes(encoded[4:8], "little")
        if stated not in UNKNOWN_SIZE and stated + 8 > len(encoded) + 1:
            return f"{len(encoded):,} of {stated + 8:,} bytes"
    if encoded[:4] == b"OggS":
        last = encoded.rfind(b"OggS")
        table = encoded[last + OGG_HEADER_BYTES - 1 :]
        size = OGG_HEADER_BYTES + table[0] + sum(table[1 : 1 + table[0]]) if table else 1 << 31
        if last + size > len(encoded) or not encoded[last + 5] & OGG_LAST_PAGE:
            return "the Ogg stream does not end"
    return ""
