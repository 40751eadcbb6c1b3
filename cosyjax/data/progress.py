"""A line now and then: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

Tell = Callable[[str], None]
EVERY_S = 5.0


class Progress:
    """Counts clips and hours of audio; may be fed from several threads."""

    def __init__(self, what: str, total_clips: int, tell: Tell) -> None:
        self._what, self._total, self._tell = what, total_clips, tell
        self._clips, self._audio_s = 0, 0.0
        self._start = self._told = time.perf_counter()
        self._lock = threading.Lock()

    def add(self, clips: int, audio_s: float) -> None:
        """Counts clips that are done; tells every few seconds."""
        with self._lock:
            self._clips += clips
            self._audio_s += audio_s
            now = time.perf_counter()
            if now - self._told >= EVERY_S:
                self._told = now
                self._tell(self.line(now))

    def line(self, now: float | None = None) -> str:
        """Returns what is known so far."""
        elapsed = max((now or time.perf_counter()) - self._start, 1e-9)
        hours = self._audio_s / 3600
        left_s = elapsed * (self._total - self._clips) / max(self._clips, 1)
        speed = f"{hours / elapsed:.4f} audio-hours/s ({self._audio_s / elapsed:.0f} x real time)"
        left = f"{clock(left_s)} left" if self._clips < self._total else f"took {clock(elapsed)}"
        counts = f"{self._clips:,}/{self._total:,} clips, {hours:.2f} audio-hours"
        return f"{self._what}: {counts}, {speed}, {left}"


def clock(seconds: float) -> str:
    """Writes a time as h:mm:ss."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
