"""Raw recordings to a data folder: in parts, each whole or absent, shared over processes.

The sorted clips go round the parts (index % parts), the parts round the processes. A part that is
there is not made again: that is how a run goes on after it was killed. Nothing is drawn at random
and nothing depends on the clock, so a part made twice has the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cosyjax.data import clips as checks
from cosyjax.data.builder import Record, write_part
from cosyjax.data.clips import Limits, Rejected
from cosyjax.data.progress import Progress, Tell
from cosyjax.data.records import (
    FINISHED,
    KINDS,
    PART,
    SPLITS,
    VERSION,
    part_folder,
    read_json,
    read_part,
)
from cosyjax.data.sources import Clip, Listing, Rejection, discover
from cosyjax.errors import InputError

REJECTED = "rejected.jsonl"
CLIPS_PER_PART = 512
_PART_NAME = re.compile(r"part-\d{5}-of-(\d{5})")
# (audio records of a part, progress) -> their features, in the same order.
Extract = Callable[[Iterable[Record], Progress], Iterable[Record]]


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How a source is cut up, and who does what."""

    heldout: float = 0.02  # share of clips held out, where the source does not say
    num_parts: int | None = None  # by default one per 512 clips, at least one per process
    process: int = 0
    num_processes: int = 1
    lang: str | None = None  # of clips whose manifest names none; by default by their script
    text_key: str | None = None  # what manifests call the transcript; by default a usual name
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not 0 <= self.heldout <= 1:
            raise InputError(f"heldout={self.heldout} is a share; it lies from 0 to 1")
        if self.num_parts is not None and not 1 <= self.num_parts <= 99_999:
            raise InputError(f"parts={self.num_parts} must lie from 1 to 99999")
        if not 0 <= self.process < self.num_processes:
            raise InputError(
                f"process={self.process} of {self.num_processes}: processes count from 0 to "
                f"{self.num_processes - 1}"
            )

    def owns(self, part: int) -> bool:
        """Whether this process makes a part."""
        return part % self.num_processes == self.process


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be made."""

    out: Path
    config: PrepareConfig
    listing: Listing
    num_parts: int
    sources: tuple[str, ...]
    units: dict[tuple[str, int], list[Clip]]  # {(split, part): clips}


def make_plan(sources: Sequence[Path], out: Path, config: PrepareConfig) -> Plan:
    """Lists the sources and deals the clips to the parts.

    Raises:
      InputError: see `discover`; `out` holds something else, or has another number of parts.
    """
    check_out(out)
    listing = discover(sources, config.lang, config.text_key)
    num_parts = _num_parts(out, config, len(listing.clips))
    dealt: dict[tuple[str, int], list[Clip]] = {}
    for index, clip in enumerate(listing.clips):
        split = clip.split or split_of(clip.id, config.heldout)
        dealt.setdefault((split, index % num_parts), []).append(clip)
    splits = [name for name in SPLITS if any(split == name for split, _ in dealt)]
    units = {(s, part): dealt.get((s, part), []) for part in range(num_parts) for s in splits}
    return Plan(out, config, listing, num_parts, tuple(str(source) for source in sources), units)


def check_out(out: Path) -> None:
    """Raises InputError if a folder is in the way that holds anything but prepared data."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder name")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder {out.absolute().parent} does not exist; make it first")
    ours = {FINISHED, REJECTED, *KINDS}
    allowed = {out: ours} | {out / kind: set(SPLITS) for kind in KINDS}
    for folder, names in allowed.items():
        held = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        foreign = sorted(name for name in held - names if ".partial-" not in name)
        if foreign:
            raise InputError(
                f"{folder} holds {foreign[0]!r}, which is no prepared data; choose another folder"
            )


def split_of(clip_id: str, heldout: float) -> str:
    """A clip's split by its id alone: it stays there when the source grows."""
    digest = hashlib.sha256(clip_id.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < heldout * 2**64 else "train"


def _num_parts(out: Path, config: PrepareConfig, num_clips: int) -> int:
    names = (path.name for path in out.glob("audio/*/part-*"))
    found = {int(match[1]) for name in names if (match := _PART_NAME.fullmatch(name))}
    default = max(-(-num_clips // CLIPS_PER_PART), min(config.num_processes, num_clips), 1)
    wanted = config.num_parts or (min(found) if found else default)
    if found - {wanted}:
        raise InputError(
            f"{out} was begun with {min(found)} parts, not {wanted}; leave --parts out to go on, "
            "or choose another folder"
        )
    return wanted


def prepare_audio(plan: Plan, tell: Tell = lambda line: None) -> None:
    """Makes this process's parts of the checked recordings; those that are there stay.

    Raises:
      InputError: a part is there that was made from other clips, or the disk is full.
    """
    todo = {}
    for (split, part), clips in plan.units.items():
        folder = part_folder(plan.out, "audio", split, (part, plan.num_parts))
        if plan.config.owns(part) and not is_made(folder, _digest(plan, clips)):
            todo[folder] = clips
    progress = Progress("audio", sum(map(len, todo.values())), tell)
    for folder, clips in todo.items():
        rejected: list[dict[str, str]] = []
        records = _checked(clips, plan.config.limits, rejected, progress)
        about = {"digest": _digest(plan, clips), "rejected": rejected}
        write_part(folder, "audio", records, about)
    if todo:
        tell(progress.line())


def is_made(folder: Path, digest: str) -> bool:
    """Whether a part is there.

    Raises:
      InputError: it is, but was made from something else.
    """
    if not (folder / PART).is_file():
        return False
    if read_json(folder / PART).get("digest") != digest:
        raise InputError(
            f"{folder} was made from other clips or with other settings; choose another folder, or "
            f"delete {folder.parent.parent} to make everything in it anew"
        )
    return True


def _digest(plan: Plan, clips: Iterable[Clip]) -> str:
    rows = [(clip.id, clip.text, clip.speaker, clip.lang) for clip in clips]
    return digest_of([VERSION, dataclasses.asdict(plan.config.limits), rows])


def digest_of(values: Any) -> str:
    """Names what a part is made from."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _checked(
    clips: list[Clip], limits: Limits, rejected: list[dict[str, str]], progress: Progress
) -> Iterator[Record]:
    """Records of the clips that pass; the others are added to `rejected`."""

    def judge(clip: Clip) -> Record | Rejected:
        try:
            checks.check_text(clip)
            encoded = checks.read_bytes(clip)
            seconds = checks.check_audio(clip, encoded, limits)
        except Rejected as reason:
            progress.add(1, 0.0)
            return reason
        progress.add(1, seconds)
        named = {"id": clip.id, "text": clip.text, "speaker": clip.speaker, "lang": clip.lang}
        return named | {"audio": encoded, "duration_s": seconds}

    for clip, found in zip(clips, threaded(judge, clips)):
        if isinstance(found, Rejected):
            rejected.append(Rejection(clip.id, clip.locator, str(found))._asdict())
        else:
            yield found


def threaded(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map` over threads: results in order, a few items ahead of what is asked for."""
    threads = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[Any]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= 4 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def prepare_features(
    out: Path,
    extract: Extract,
    made_by: dict[str, Any],
    config: PrepareConfig,
    tell: Tell = lambda line: None,
) -> None:
    """Makes the features of this process's parts: record n belongs to audio record n.

    Args:
      out: a data folder whose audio parts of this process are there.
      extract: turns the audio records of a part into feature records, in order.
      made_by: what the features depend on beside the audio, such as the bundle.
      config: which process.
      tell: called with progress lines.

    Raises:
      InputError: a part is there that was made by something else, or the disk is full.
    """
    todo = {}
    for audio in sorted(out.glob("audio/*/part-*")):
        features = out / "features" / audio.parent.name / audio.name
        about = read_json(audio / PART)
        digest = digest_of([VERSION, made_by, about["digest"]])
        if config.owns(int(audio.name.split("-")[1])) and not is_made(features, digest):
            todo[audio] = (features, digest, int(about["num_records"]))
    progress = Progress("features", sum(count for _, _, count in todo.values()), tell)
    for audio, (features, digest, _) in todo.items():
        records = extract(read_part(audio, "audio"), progress)
        write_part(features, "features", records, {"digest": digest, "made_by": made_by})
    if todo:
        tell(progress.line())
