"""What every test runs under: one thread for each library that has threads, no network, no colours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before torch is imported; test runners already share the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_COLOR"] = "1"

# Deadlines measure the machine's load here, not the code; the seed is fixed so that a failure repeats.
settings.register_profile("shared", deadline=None, derandomize=True, database=None)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Tests that draw from torch's own generator draw the same numbers in every run and order."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(400)`: the folder of a real file system of 400 kB; skips where mounting is not allowed."""
    folder = tmp_path / "small"

    def mount(kilobytes: int) -> Path:
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            folder.rmdir()
            pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_dir():
        subprocess.run(["umount", "-l", str(folder)], check=True)
