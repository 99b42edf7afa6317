"""Freed memory stays with the process: seen from outside, by the page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from slm.core.allocator import OWN_CHOICE

ALLOCATE = """
import resource, sys
from slm.core.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(64 << 20)
    del block
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` said, and the page faults of taking 64 MB for the third time."""
    clean = {name: value for name, value in os.environ.items() if name not in OWN_CHOICE}
    words = [sys.executable, "-c", ALLOCATE, mode]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**clean, **environment})
    said, number = done.stdout.split()
    return said, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates here")
def test_memory_is_fetched_from_the_kernel_once():
    assert faults("leave")[1] > 10
    said, number = faults("keep")
    assert said == "True"
    assert number < 10


def test_an_allocator_that_the_environment_sets_up_is_left_alone():
    assert faults("keep", MALLOC_MMAP_MAX_="7")[0] == "False"


def test_where_the_c_library_has_no_mallopt_nothing_is_changed(monkeypatch):
    from slm.core import allocator

    for name in OWN_CHOICE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
