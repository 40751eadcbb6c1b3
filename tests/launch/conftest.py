"""Stand-ins for the programs that launchers start, and what they were asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
TIMEOUT_S = 30
WORD, CALL = "\x1f", "\x1e"  # what ends a word, and a call, in the log


class Stage:
    """A folder of programs that come first on PATH, and the log in which they write their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder, folder / "bin", folder / "calls"
        self.bin.mkdir()
        self._started: list[subprocess.Popen] = []
        self.environ = {
            **os.environ,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "STAGE": str(folder),
            "PAUSE_S": "0",
            "POLL_S": "0",
        }

    def program(self, name: str, body: str) -> None:
        """Adds a program in bash; its call is logged before its body runs."""
        path = self.bin / name
        log = (
            f'printf -v call \'%s{WORD}\' {name} "$@"\nprintf \'%s{CALL}\' "$call" >>"$STAGE/calls"'
        )
        path.write_text(f"#!/usr/bin/env bash\n{log}\n{body}\n")
        path.chmod(0o755)

    def calls(self, name: str = "") -> list[list[str]]:
        """The words of every call so far, of one program or of all."""
        text = self.log.read_text() if self.log.exists() else ""
        calls = [call.split(WORD)[:-1] for call in text.split(CALL)[:-1]]
        return [words for words in calls if words[0] == name or not name]

    def start(self, script: str, *words: str, **variables: str) -> subprocess.Popen:
        """Starts a launcher of the repository."""
        process = subprocess.Popen(
            [str(LAUNCH / script), *words],
            cwd=self.folder,
            env={**self.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Ends what a test that failed has left."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=5)
                process.kill()
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGKILL)

    def run(self, script: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs a launcher to its end."""
        process = self.start(script, *words, **variables)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def pids(self) -> list[int]:
        """Process ids that the programs have left in the file `pids`."""
        path = self.folder / "pids"
        return [int(word) for word in path.read_text().split()] if path.exists() else []


def wait_until(done: Callable[[], bool]) -> None:
    """Waits for a condition; fails after half a minute."""
    end = time.monotonic() + TIMEOUT_S
    while not done():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture()
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.end()
