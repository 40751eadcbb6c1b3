"""SIGTERM asks a run to save and end; all processes of a run agree on the step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step that says whether to end after it."""
    if jax.process_count() > 1:
        # The distributed runtime catches the signal and finds a step that all can reach.
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, ask) if main else None
    try:
        yield lambda step: asked.is_set()
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
