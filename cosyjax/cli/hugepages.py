"""Large pages for the memory that computing on a CPU takes and gives back all the time.

XLA takes the working memory of a step anew for every step: hundreds of thousands of page faults of
4 KiB where the kernel gives 2 MiB pages to programs that ask (`madvise`). glibc asks for them when
it is told so before the program starts, hence the restart.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OLDEST_GLIBC = (2, 35)  # the first that knows the tunable


def environment(environ: Mapping[str, str], libc: str, setting: str) -> dict[str, str] | None:
    """The environment to start again with, or None where that would change nothing.

    Args:
      environ: the present one; a value of the tunable in it, 0 too, is left alone.
      libc: such as "glibc 2.36".
      setting: what the kernel says, such as "always [madvise] never".
    """
    name, _, version = libc.partition(" ")
    digits = [part for part in version.split(".")[:2] if part.isdigit()]
    known = name == "glibc" and tuple(map(int, digits)) >= OLDEST_GLIBC
    given = environ.get(VARIABLE, "")
    if not known or "[madvise]" not in setting or TUNABLE in given:
        return None
    tunables = f"{given}:{TUNABLE}=1" if given else f"{TUNABLE}=1"
    return {**environ, VARIABLE: tunables}


def restart() -> None:
    """Starts this program again with huge pages, as the same process; returns where none are."""
    if sys.platform != "linux" or not SETTING.is_file():
        return
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # another C library
        return
    changed = environment(os.environ, libc, SETTING.read_text())
    if changed is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
