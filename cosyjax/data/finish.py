"""What a data folder says of itself once every process's parts are there: prepare.json."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from cosyjax.data.prepare import REJECTED, Plan
from cosyjax.data.records import (
    FINISHED,
    KINDS,
    PART,
    VERSION,
    part_folder,
    read_json,
    read_summary,
)
from cosyjax.io.atomic import atomic_file


def finish_audio(plan: Plan) -> dict[str, Any] | None:
    """Writes rejected.jsonl and prepare.json once every process's audio is there.

    Returns:
      The summary, or None while parts are missing.
    """
    parts = [part_folder(plan.out, "audio", s, (p, plan.num_parts)) / PART for s, p in plan.units]
    if not all(path.is_file() for path in parts):
        return None
    rejected = [row._asdict() for row in plan.listing.rejected]
    rejected += [row for path in parts for row in read_json(path)["rejected"]]
    rejected.sort(key=lambda row: (row["id"], row["path"]))
    with atomic_file(plan.out / REJECTED) as partial:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rejected]
        partial.write_text("".join(lines), encoding="utf-8")
    head = {
        "version": VERSION,
        "sources": list(plan.sources),
        "num_parts": plan.num_parts,
        "split_rule": f"the source's own, else heldout if sha256(id) < {plan.config.heldout}",
        "limits": dataclasses.asdict(plan.config.limits),
        "num_clips": len(plan.listing.clips) + len(plan.listing.rejected),
        "num_rejected": len(rejected),
    }
    return _write_summary(plan.out, head)


def finish_features(out: Path) -> dict[str, Any] | None:
    """Adds the features to prepare.json once every process's are there; None until then."""
    if not (out / FINISHED).is_file():
        return None
    summary = _write_summary(out, read_summary(out))
    return summary if "features" in summary else None


def _write_summary(out: Path, head: dict[str, Any]) -> dict[str, Any]:
    summary = {key: value for key, value in head.items() if key not in KINDS}
    for kind in KINDS:
        counted = _count(out, kind, summary["num_parts"])
        if counted is not None:
            summary[kind] = counted
    with atomic_file(out / FINISHED) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _count(out: Path, kind: str, num_parts: int) -> dict[str, Any] | None:
    """Records and seconds per split, or None where a part of this kind is missing."""
    counts, made_by = {}, None
    for split in sorted(path.name for path in out.glob("audio/*")):
        folders = [part_folder(out, kind, split, (p, num_parts)) for p in range(num_parts)]
        if not all((folder / PART).is_file() for folder in folders):
            return None
        parts = [read_json(folder / PART) for folder in folders]
        made_by = parts[0].get("made_by")
        counts[split] = {
            "num_records": sum(part["num_records"] for part in parts),
            "audio_s": round(sum(s for p in parts for s in p["columns"].get("duration_s", ())), 3),
        } | _codes(parts)
    return {"splits": counts} | ({"made_by": made_by} if made_by else {})


def _codes(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Use of the codebook by the speech tokens of these parts; {} where there are none."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.get("code_counts", {}))
    total = sum(counts.values())
    entropy = -sum(n / total * math.log(n / total) for n in counts.values())
    used = {"num_codes": len(counts), "code_perplexity": round(math.exp(entropy), 1)}
    return used if total else {}
