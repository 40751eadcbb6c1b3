"""The one exception a caller's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad text, audio, checkpoint, config or request.

    The message says what was given, what is allowed and what to do. The command line prints it
    without a traceback and exits with 2.
    """


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> str:
    """Returns a phrase that names the closest allowed words, for use at the end of a message."""
    words = sorted(allowed)
    close = difflib.get_close_matches(name, words, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(word) for word in close) + "?"
    shown = ", ".join(repr(word) for word in words[:12]) + (", ..." if len(words) > 12 else "")
    return f"allowed: {shown or 'nothing'}"
