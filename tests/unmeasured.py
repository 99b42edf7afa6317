"""The environment of processes that tests interrupt: as it is, but without the measuring of coverage."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """Variables for a process that is sent a signal which raises an exception wherever it is.

    Coverage.py 7.17 takes a lock when a file is entered for the first time, in Python; an exception raised there leaves
    it taken, and the process waits for it for ever.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS_")}
