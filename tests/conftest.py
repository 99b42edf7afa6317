"""What every test runs under: one thread for each library that has threads, no network, no colours."""

from __future__ import annotations

import os

from hypothesis import settings

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before torch is imported; test runners already share the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_COLOR"] = "1"

# Deadlines measure the machine's load here, not the code; the seed is fixed so that a failure repeats.
settings.register_profile("shared", deadline=None, derandomize=True, database=None)
settings.load_profile("shared")
