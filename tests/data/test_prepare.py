"""Data folders: every good clip arrives, every bad one is listed, and killed runs go on."""

from __future__ import annotations

import dataclasses
import json
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cosyjax.cli import main
from cosyjax.data import builder, clips, finish, prepare, records
from cosyjax.data.progress import Progress
from cosyjax.errors import InputError
from tests.data.corpora import encoded, tone, tree, write_folder, write_shard

CONFIG = prepare.PrepareConfig(num_parts=2, heldout=0.3)


def made(source: Path, out: Path, config: prepare.PrepareConfig = CONFIG) -> Path:
    plan = prepare.make_plan([source], out, config)
    out.mkdir(exist_ok=True)
    prepare.prepare_audio(plan)
    finish.finish_audio(plan)
    return out


def ids(out: Path) -> list[str]:
    splits = records.read_summary(out)["audio"]["splits"]
    return sorted(i for s in splits for i in records.open_source(out, "audio", s).column("id"))


def rejected(out: Path) -> dict[str, str]:
    lines = (out / "rejected.jsonl").read_text().splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source"), 9)


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("finished") / "data")


def test_every_clip_is_in_one_split_with_its_bytes_as_given(source: Path, finished: Path):
    found = {}
    for split in records.SPLITS:
        held = records.open_source(finished, "audio", split)
        assert len(held) > 0
        found |= {held[number]["id"]: held[number] for number in range(len(held))}
    assert len(found) == 9
    record = found["speaker-1/clip-003"]
    assert record["audio"] == (source / "speaker-1" / "clip-003.wav").read_bytes()
    assert (record["text"], record["speaker"], record["lang"]) == ("number d", "speaker-1", "en")
    assert record["duration_s"] == 0.5


def test_a_source_pickles_and_names_itself(finished: Path):
    source = records.open_source(finished, "audio", "train")
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source) and again[1] == source[1]
    assert source.column("speaker") == [source[n]["speaker"] for n in range(len(source))]
    with pytest.raises(IndexError):
        source[len(source)]


def test_opening_a_source_leaves_no_import_to_the_reading_threads(finished: Path):
    # While tensorflow-datasets is imported in one thread, imports of the others fail.
    code = f"""
import sys
from cosyjax.data import records
records.open_source({str(finished)!r}, "audio", "train")
before = set(sys.modules)
records.open_source({str(finished)!r}, "audio", "train")[0]
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
sys.exit(f"imported {{new}}" if "tensorflow_datasets" not in before or new else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensorflow_datasets_reads_a_part_by_itself(finished: Path):
    import tensorflow_datasets as tfds

    part = records.part_folder(finished, "audio", "train", (0, 2))
    source = tfds.builder_from_directory(part / "audio" / records.VERSION).as_data_source("clips")
    assert source[0]["id"].decode() == records.open_source(finished, "audio", "train")[0]["id"]


def test_processes_share_the_parts_and_the_last_one_finishes(
    source: Path, finished: Path, tmp_path: Path
):
    out = tmp_path / "data"
    for process in (1, 0):
        assert not (out / "prepare.json").exists()
        made(source, out, dataclasses.replace(CONFIG, process=process, num_processes=2))
    assert tree(out) == tree(finished)


def test_a_run_killed_in_a_part_goes_on_to_the_same_bytes(
    source: Path, finished: Path, tmp_path: Path
):
    out = tmp_path / "data"
    script = f"""
import os, signal
from cosyjax.data import clips
from tests.data.test_prepare import made, Path
read, count = clips.read_bytes, []
def dying(clip):
    count.append(clip)
    if len(count) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(clip)
clips.read_bytes = dying
made(Path({str(source)!r}), Path({str(out)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(out.glob("audio/*/part-*")) and not (out / "prepare.json").exists()
    with pytest.raises(InputError, match="did not finish"):
        records.open_source(out, "audio", "train")
    assert tree(made(source, out)) == tree(finished)


def test_bad_clips_are_refused_with_the_reason_and_nothing_else_is_lost(tmp_path: Path):
    sound = encoded(tone(1.0))
    flac, ogg = encoded(tone(1.0), "FLAC"), encoded(tone(1.0), "OGG")
    bad = {
        "garbage": (b"no audio at all", "hello", "not readable"),
        "cut-wav": (sound[: len(sound) // 2], "hello", "truncated"),
        "cut-ogg": (ogg[: len(ogg) // 2], "hello", "truncated"),
        "cut-flac": (flac[: len(flac) // 2], "hello", "not readable"),
        "wordless": (sound, " \n", "empty transcript"),
        "marks": (sound, "?!", "no words"),
        "blink": (encoded(tone(0.05)), "hello", "0.05 s long"),
        "lecture": (encoded(np.zeros(600 * 8000, "f4"), "FLAC", 8000), "hello", "600.0 s long"),
        "silence": (encoded(np.zeros(16000, "f4")), "hello", "silent"),
        "hasty": (sound, "x" * 41, "41 characters"),
    }
    source = tmp_path / "source"
    source.mkdir()
    for name, (data, text, _) in (bad | {"good": (sound, "hello", "")}).items():
        (source / f"{name}.wav").write_bytes(data)
        (source / f"{name}.txt").write_text(text)
    out = made(source, tmp_path / "data", prepare.PrepareConfig(heldout=0.0))
    assert ids(out) == ["good"]
    reasons = rejected(out)
    assert sorted(reasons) == sorted(bad)
    assert rejected(made(source, tmp_path / "again", prepare.PrepareConfig(heldout=0.0))) == reasons
    for name, (_, _, words) in bad.items():
        assert words in reasons[name], reasons[name]


def test_of_a_truncated_shard_what_is_readable_is_used(tmp_path: Path):
    shard = write_shard(tmp_path / "source", "s", 6)
    data = shard.read_bytes()
    index = clips.index_tar(str(shard))
    first, count = index.places["s-003.flac"]
    clips.index_tar.cache_clear()
    shard.write_bytes(data[: first + count // 2])
    out = made(tmp_path / "source", tmp_path / "data")
    assert ids(out) == ["s-000", "s-001", "s-002"]
    assert "truncated" in rejected(out)["s-003"]
    assert sorted(rejected(out)) == ["s-003", "s-004", "s-005"]


def test_a_length_that_the_manifest_belies_is_refused(tmp_path: Path):
    write_shard(tmp_path / "source", "s", 2)
    manifest = tmp_path / "source" / "s.jsonl"
    manifest.write_text(manifest.read_text().replace('"dur": 0.5', '"dur": 3.0', 1))
    out = made(tmp_path / "source", tmp_path / "data")
    assert "manifest states 3.00 s" in rejected(out)["s-000"] and ids(out) == ["s-001"]


def test_a_full_disk_is_told_and_leaves_no_half_part(source: Path, tmp_path: Path):
    out = tmp_path / "data"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match="disk is full"):
            made(source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in out.rglob("*") if path.is_file()]
    assert len(ids(made(source, out))) == 9


def test_a_damaged_record_is_named(finished: Path, tmp_path: Path, source: Path):
    out = made(source, tmp_path / "data")
    (path,) = records.record_files(records.part_folder(out, "audio", "train", (0, 2)), "audio")
    data = bytearray(path.read_bytes())
    place = data.find(b"number")
    data[place - 4000 : place + 4] = bytes(4004)
    path.write_bytes(bytes(data))
    held = records.open_source(out, "audio", "train")
    failed = []
    for number in range(len(held)):
        try:
            held[number]
        except InputError as error:
            failed.append(str(error))
    assert 1 <= len(failed) < len(held) and "unreadable" in failed[0] and "clip-" in failed[0]


def test_a_folder_that_holds_something_else_is_refused(source: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="thesis.tex"):
        made(source, tmp_path / "data")
    with pytest.raises(InputError, match="does not exist"):
        made(source, tmp_path / "no" / "data")


def test_parts_of_another_source_or_number_are_not_gone_on_with(source: Path, tmp_path: Path):
    out = made(source, tmp_path / "data")
    with pytest.raises(InputError, match="begun with 2 parts, not 3"):
        made(source, out, prepare.PrepareConfig(num_parts=3))
    other = write_folder(tmp_path / "other", 5)
    with pytest.raises(InputError, match="made from other clips"):
        made(other, out)


def test_a_split_that_no_clip_falls_in_is_no_split(source: Path, tmp_path: Path):
    out = made(source, tmp_path / "data", prepare.PrepareConfig(heldout=0.0))
    with pytest.raises(InputError, match="no heldout split"):
        records.open_source(out, "audio", "heldout")
    with pytest.raises(InputError, match="holds no features"):
        records.open_source(out, "features", "train")


def test_the_split_of_a_clip_stays_when_the_source_grows():
    shares = [prepare.split_of(f"clip-{n}", 0.1) == "heldout" for n in range(2000)]
    assert 0.07 < np.mean(shares) < 0.13
    assert prepare.split_of("clip-7", 0.0) == "train"
    assert prepare.split_of("clip-7", 1.0) == "heldout"


def test_a_part_without_records_is_read_as_empty(tmp_path: Path):
    builder.write_part(tmp_path / "part", "audio", [], {"digest": "x"})
    assert list(records.read_part(tmp_path / "part", "audio")) == []


def test_progress_tells_speed_and_time_left():
    lines: list[str] = []
    progress = Progress("audio", 4, lines.append)
    progress.add(1, 36.0)
    line = progress.line(progress._start + 10.0)
    assert "1/4 clips, 0.01 audio-hours, 0.0010 audio-hours/s" in line and "0:00:30 left" in line


def test_the_command_says_what_it_made(source: Path, tmp_path: Path, capsys):
    words = ["prepare", str(source), str(tmp_path / "data"), "--heldout", "0"]
    assert main(words) == 0
    assert "audio, train: 9 clips" in capsys.readouterr().out
    assert main(["prepare", str(tmp_path / "no"), str(tmp_path / "data")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "data"), str(tmp_path / "data")]) == 2
    assert "--bundle" in capsys.readouterr().err
