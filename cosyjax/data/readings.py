"""Texts with their pronunciation as training data of a language model, without any speech.

Spelling is what hours of speech teach worst: few words occur often enough. A list of texts with
their pronunciation is cheap, so the language model may first learn to write the pronunciation of a
text in the place of speech tokens; its tables of speech are then learnt anew, the rest goes on.

Differs: the paper's language model starts from one of text (Qwen2.5-0.5B) to the same end.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cosyjax import shapes
from cosyjax.data.builder import Record, write_part
from cosyjax.data.prepare import check_out, split_of
from cosyjax.data.records import FINISHED, SPLITS, VERSION, part_folder
from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file
from cosyjax.text.tokenizer import TextTokenizer

HELDOUT = 0.02  # share of the texts
ONLY_PART = (0, 1)


def write_readings(
    manifest: Path, out: Path, letters: TextTokenizer, phones: TextTokenizer, text_key: str
) -> dict[str, int]:
    """Writes a data folder of features whose speech tokens are ids of a pronunciation.

    Args:
      manifest: .jsonl or .jsonl.gz; rows with `text` and `text_key`, and where known `id`, `lang`.
      out: data folder to make.
      letters: tokenizer of the texts.
      phones: tokenizer of the pronunciations.
      text_key: the field with the pronunciation.

    Returns:
      records per split.

    Raises:
      InputError: no such rows, or something is in the way.
    """
    check_out(out)
    if (out / FINISHED).exists():
        raise InputError(f"{out} is there already; choose another folder")
    made: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for row in _rows(manifest, text_key):
        record = _record(row, letters.encode(row["text"]), phones.encode(row[text_key]))
        made[split_of(record["id"], HELDOUT)].append(record)
    out.mkdir(exist_ok=True)
    for split, records in made.items():
        for kind in ("audio", "features"):  # a summary counts what has audio: here, nothing
            folder = part_folder(out, kind, split, ONLY_PART)
            write_part(folder, kind, records if kind == "features" else (), {"digest": ""})
    counts = {split: len(records) for split, records in made.items()}
    splits = {split: {"num_records": count, "audio_s": 0.0} for split, count in counts.items()}
    about = {"version": VERSION, "sources": [str(manifest)], "num_parts": 1}
    with atomic_file(out / FINISHED) as partial:
        summary = about | {"features": {"splits": splits}}
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return counts


def _rows(manifest: Path, text_key: str) -> Iterator[dict[str, Any]]:
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such file; a .jsonl or .jsonl.gz is needed")
    encoded = manifest.read_bytes()
    try:
        lines = gzip.decompress(encoded) if manifest.suffix == ".gz" else encoded
        rows = [json.loads(line) for line in lines.splitlines() if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{manifest}: not readable as JSON lines: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("text") or not row.get(text_key):
            raise InputError(f"{manifest}, row {number}: `text` and `{text_key}` are needed")
        yield {"id": f"{manifest.name}-{number:07d}", "lang": "", **row}
    if not rows:
        raise InputError(f"{manifest}: holds no rows")


def _record(row: dict[str, Any], text_tokens: list[int], reading: list[int]) -> Record:
    return {
        "id": str(row["id"]),
        "text": row["text"],
        "speaker": "",
        "lang": str(row["lang"]),
        "text_tokens": np.asarray(text_tokens, np.int32),
        "speech_tokens": np.asarray(reading, np.int32),
        "speaker_embedding": np.zeros(0, np.float32),
        "mel": np.zeros((0, shapes.NUM_MELS), np.float16),
        "f0": np.zeros(0, np.float32),
        "duration_s": len(reading) / shapes.TOKEN_RATE_HZ,
    }
