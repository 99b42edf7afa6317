"""What every test runs under: one thread for each library that has threads, no network, no colours."""

from __future__ import annotations

import os
import sys

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
