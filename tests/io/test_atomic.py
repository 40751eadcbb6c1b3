"""Files and folders appear whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cosyjax.errors import InputError
from cosyjax.io.atomic import atomic_file, atomic_folder, check_apart

HALF_WRITER = """
import sys, time
from pathlib import Path
from cosyjax.io.atomic import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def start_half_writer(target: Path) -> subprocess.Popen:
    repository = Path(__file__).parents[2]
    command = [sys.executable, "-c", HALF_WRITER, str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def test_a_file_is_replaced_only_when_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_keeps_the_suffix(tmp_path):
    with atomic_file(tmp_path / "a.flac") as partial:
        assert partial.suffix == ".flac" and partial.parent == tmp_path
        partial.write_text("")


def test_a_failing_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_needs_force(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(InputError, match="not empty"), atomic_folder(out):
        pass
    with atomic_folder(out, force=True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [out]


def test_force_spares_a_folder_of_another_kind(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").write_text("dear")
    with pytest.raises(InputError, match="holds none of config.json"):
        with atomic_folder(tmp_path / "home", force=True, marks=("config.json",)):
            pass
    assert (tmp_path / "home" / "letters").exists()


def test_a_source_is_not_replaced_by_its_own_product(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    check_apart(tmp_path / "a", tmp_path / "a" / "b")
    for target in (tmp_path / "a" / "b", tmp_path / "a", tmp_path):
        with pytest.raises(InputError, match="holds the source"):
            check_apart(tmp_path / "a" / "b", target)


def test_a_failure_under_force_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(out, force=True):
        raise RuntimeError
    assert [path.name for path in out.iterdir()] == ["old"]


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="out: 9,000,000 bytes are needed and 5,000,000 are free"):
        with atomic_folder(tmp_path / "out", needed_bytes=9_000_000):
            raise AssertionError("must not begin")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="a.bin: the disk is full; 7 bytes"):
        with atomic_file(tmp_path / "a.bin", needed_bytes=7) as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_parent_is_named(tmp_path):
    with pytest.raises(InputError, match="absent does not exist"):
        with atomic_file(tmp_path / "absent" / "a"):
            pass


def test_termination_leaves_nothing(tmp_path):
    process = start_half_writer(tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    process = start_half_writer(tmp_path / "out")
    process.kill()
    process.wait(20)
    assert not (tmp_path / "out").exists()
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "whole").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
