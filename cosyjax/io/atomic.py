"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType

from cosyjax.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MARGIN_BYTES = 1 << 20  # folder entries and the small files beside the tensors


@contextlib.contextmanager
def atomic_file(path: Path | str, *, needed_bytes: int | None = None) -> Iterator[Path]:
    """Gives a temporary path of the same suffix to write to; renamed to `path` at the end.

    On any error, and on SIGTERM, the temporary file is removed and `path` stays as it was.

    Raises:
      InputError: the folder does not exist, `path` is a folder, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name")
    partial = _partial(path)
    with _reporting(path, needed_bytes), _removing(partial):
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)


@contextlib.contextmanager
def atomic_folder(
    path: Path | str,
    *,
    force: bool = False,
    marks: Collection[str] = (),
    needed_bytes: int | None = None,
) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill; renamed to `path` at the end.

    On any error, and on SIGTERM, the temporary folder is removed and `path` stays as it was.

    Args:
      path: the folder to make. An empty one is replaced.
      force: replace a folder that is not empty, if it holds one of `marks`.
      marks: file names that tell a folder of the kind to be made; none for any kind.
      needed_bytes: checked against the free space before anything is written.

    Raises:
      InputError: `path` is a file or a folder that is not empty, its parent does not exist, or
        the disk is full.
    """
    path = Path(path).absolute()
    check_folder(path, force=force, marks=marks)
    partial = _partial(path)
    with _reporting(path, needed_bytes), _removing(partial):
        partial.mkdir()
        yield partial
        for entry in [*partial.rglob("*"), partial]:
            _sync(entry)
        _replace_folder(partial, path)


def check_folder(path: Path, *, force: bool = False, marks: Collection[str] = ()) -> None:
    """Raises InputError if a folder cannot be made at `path`; see `atomic_folder`."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give a folder name")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise InputError(f"{path} is not empty; choose another folder, or force to replace it")
        if marks and not any((path / mark).exists() for mark in marks):
            raise InputError(
                f"{path} is not empty and holds none of {', '.join(marks)}, so it is not replaced "
                "even by force; choose another folder"
            )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")


def check_apart(source: Path, target: Path) -> None:
    """Raises InputError if making `target` would replace `source` or a folder that holds it."""
    source, target = source.absolute().resolve(), target.absolute().resolve()
    if source == target or target in source.parents:
        raise InputError(f"{target} holds the source {source}; choose another folder")


def check_room(path: Path, needed_bytes: int) -> None:
    """Raises InputError unless the disk that holds `path` has `needed_bytes` free."""
    free = shutil.disk_usage(path.parent).free
    if free < needed_bytes + _MARGIN_BYTES:
        raise InputError(
            f"{path}: {needed_bytes:,} bytes are needed and {free:,} are free there; "
            "make room or choose another disk"
        )


def _partial(path: Path) -> Path:
    """A hidden sibling that names this process; those of dead processes are removed."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    stem = f".{path.name}.partial-"
    for stale in path.parent.iterdir():
        owner = stale.name.removeprefix(stem).split(".")[0]
        if stale.name.startswith(stem) and owner.isdigit() and not _alive(int(owner)):
            _remove(stale)
    own = f"{stem}{os.getpid()}.{threading.get_ident()}"
    return path.parent / (own + path.suffix)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _reporting(path: Path, needed_bytes: int | None) -> Iterator[None]:
    if needed_bytes is not None:
        check_room(path, needed_bytes)
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        amount = "" if needed_bytes is None else f"; {needed_bytes:,} bytes are needed"
        raise InputError(
            f"{path}: the disk is full{amount}. Nothing was written; make room or choose another "
            "disk"
        ) from error


@contextlib.contextmanager
def _removing(partial: Path) -> Iterator[None]:
    """Removes `partial` on the way out; turns SIGTERM into an exit that passes here."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        _remove(partial)
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace_folder(new: Path, path: Path) -> None:
    """A folder that is not empty cannot be renamed over: it steps aside first."""
    if path.is_dir() and any(path.iterdir()):
        aside = new.with_name(new.name + ".old")
        os.rename(path, aside)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
        shutil.rmtree(aside)
    else:
        os.replace(new, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
