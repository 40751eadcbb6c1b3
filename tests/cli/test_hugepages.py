"""Large pages: when the program starts again, and that it does so once."""

import os
import subprocess
import sys

import pytest

from cosyjax.cli import hugepages

ASKS, ALWAYS = "always [madvise] never", "[always] madvise never"
TOLD = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def test_a_kernel_that_wants_to_be_asked_is_asked():
    assert hugepages.environment({"A": "b"}, "glibc 2.36", ASKS) == {"A": "b", **TOLD}
    other = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    made = hugepages.environment(other, "glibc 2.35", ASKS)
    assert made == {"GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    "environ, libc, setting",
    [
        (TOLD, "glibc 2.36", ASKS),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc 2.36", ASKS),
        ({}, "glibc 2.31", ASKS),
        ({}, "musl 1.2", ASKS),
        ({}, "glibc 2.36", ALWAYS),
        ({}, "", ASKS),
    ],
)
def test_otherwise_nothing_happens(environ, libc, setting):
    assert hugepages.environment(environ, libc, setting) is None


def test_the_program_goes_on_with_its_words_as_the_same_process(tmp_path):
    setting = tmp_path / "enabled"
    setting.write_text(ASKS)
    code = f"""
import os, sys
from pathlib import Path
from cosyjax.cli import hugepages
hugepages.SETTING = Path({str(setting)!r})
os.confstr = lambda name: "glibc 2.36"
print(os.getpid(), sys.argv[1:], "hugetlb" in os.environ.get("GLIBC_TUNABLES", ""), flush=True)
hugepages.restart()
"""
    environ = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    words = [sys.executable, "-c", code, "a b", "--c"]
    done = subprocess.run(words, capture_output=True, text=True, env=environ, check=True)
    before, after = done.stdout.splitlines()
    assert before.endswith("['a b', '--c'] False") and after.endswith("['a b', '--c'] True")
    assert before.split()[0] == after.split()[0]
