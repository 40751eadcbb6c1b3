"""Writes small corpora of tones in the layouts that `cosyjax prepare` reads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


def tone(seconds: float, pitch_hz: float = 150.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A voice of five harmonics, float32."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.2 * sum(np.sin(2 * np.pi * pitch_hz * k * t) / k for k in range(1, 6))).astype("f4")


def encoded(wav: np.ndarray, kind: str = "WAV", rate_hz: int = RATE_HZ) -> bytes:
    """The bytes of an audio file."""
    file = io.BytesIO()
    subtype = {"OGG": "VORBIS"}.get(kind)
    soundfile.write(file, wav, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def write_folder(folder: Path, count: int, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> Path:
    """Clips clip-000.wav, ... of two speakers, each with a .txt."""
    for number in range(count):
        path = folder / f"speaker-{number % 2}" / f"clip-{number:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(tone(seconds, 100.0 + number, rate_hz), "WAV", rate_hz))
        path.with_suffix(".txt").write_text(f"number {chr(97 + number)}\n")
    return folder


def write_shard(folder: Path, name: str, count: int, seconds: float = 0.5) -> Path:
    """A tar shard of flac files with its manifest beside; returns the shard."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(folder / f"{name}.tar", "w") as shard:
        for number in range(count):
            data = encoded(tone(seconds, 100.0 + number), "FLAC")
            member = tarfile.TarInfo(f"{name}-{number:03d}.flac")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
            rows.append(
                {
                    "id": f"{name}-{number:03d}",
                    "path": f"{name}.tar/{member.name}",
                    "text": f"number {number}",
                    "speaker": "s1",
                    "dur": seconds,
                    "split": "train" if number else "unseen_text",
                }
            )
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder / f"{name}.tar"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
