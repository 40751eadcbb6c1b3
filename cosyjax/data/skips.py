"""Records that are left out: counted by reason, the first ones named, never silent."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import numpy as np

from cosyjax.data.config import Source

_LOG = logging.getLogger("cosyjax.data")
NAMED = 20  # of unreadable records so many get a line of their own
EVERY = 1000  # of the others, one line for so many


class SkipLog:
    """What one dataset left out. Reading threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()  # {reason: times}
        self.names: dict[str, str] = {}  # {record: what was wrong}, the first NAMED

    def unreadable(self, name: str, error: Exception) -> None:
        """Notes a record that could not be read, each time that it comes up."""
        with self._lock:
            self.counts["unreadable"] += 1
            count = self.counts["unreadable"]
            known = name in self.names
            if not known and len(self.names) < NAMED:
                self.names[name] = str(error)
                _LOG.warning("record %s is left out: %s", name, error)
            elif count % EVERY == 0:
                _LOG.warning("unreadable records came up %d times so far", count)

    def unsuitable(self, reason: str, source: Source, chosen: np.ndarray) -> None:
        """Notes the records, [n] bool, that a pipeline cannot use, before the first is read."""
        if not chosen.any():
            return
        numbers, names = np.flatnonzero(chosen), source.column("id")
        self.counts[reason] += len(numbers)
        shown = ", ".join(str(names[number]) for number in numbers[:5])
        _LOG.warning(
            "%r: %d of %d records left out, %s: %s%s",
            source,
            len(numbers),
            len(chosen),
            reason,
            shown,
            ", ..." if len(numbers) > 5 else "",
        )
