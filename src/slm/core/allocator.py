"""Freed memory that stays with the process, so that a training step does not fetch it from the kernel again.

glibc takes every large tensor from the kernel and gives it back when it is freed. A step allocates the same sizes as
the one before, so each pays for its pages anew: 80,000 page faults in a step of 4,096 tokens with 12.6M parameters,
and between a tenth and a third of its time (`python scripts/bench_train.py` prints both).
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, from its malloc.h."""
OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which somebody has set up an allocator already."""


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed until the process ends; whether it does.

    The process's memory then stays at its peak. Where another C library allocates, or the environment says how
    (`OWN_CHOICE`), nothing is changed.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in OWN_CHOICE):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
