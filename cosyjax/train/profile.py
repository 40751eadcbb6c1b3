"""A trace of some steps on request, for `xprof` or Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces from the start of step a to the start of step b into workdir/profile."""

    def __init__(self, steps: tuple[int, int] | None, workdir: Path) -> None:
        self._steps, self._folder, self._running = steps, workdir / "profile", False

    def at(self, step: int, state: Any) -> None:
        """Starts or ends the trace before `step`; waits for the device at both."""
        if self._steps is None:
            return
        if self._running and step >= self._steps[1]:
            self.close(state)
        elif not self._running and step == self._steps[0]:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def close(self, state: Any = None) -> None:
        """Ends a trace that is under way."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
