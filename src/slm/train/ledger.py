"""Where the time of a run went: each second is booked under one phase, over all processes that worked on it.

In: `with ledger.phase("save"):` around the parts of the loop. Out: `ledger.jsonl` beside the metrics and a
table at the end. A line holds a process's own account so far; it is appended at each logged step, so that a
killed process is counted as far as its last one, and the next start keeps the last line of each. Seconds
that no phase claims are `other`, so an account always sums to its process's wall-clock.

`replayed` is compute and data of steps that had been done before: a kill, a stop or a rewind threw them
away. What went before counts as done up to the last step that was logged. Cost: two clock readings a phase.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from slm.core.artifact import write_atomically
from slm.core.console import duration, table

LEDGER = "ledger.jsonl"
PHASES = ("start", "data", "compute", "save", "evaluate", "sample", "replayed", "other")
MEANINGS = {
    "start": "reading shards and checkpoint, building, probing",
    "data": "waiting for rows",
    "compute": "forward, backward, optimizer",
    "save": "writing checkpoints",
    "evaluate": "held-out loss",
    "sample": "continuing the prompts",
    "replayed": "steps done again after a stop",
    "other": "logging and the rest",
}


class Ledger:
    """The account of this process; a context manager that closes it however the process ends."""

    def __init__(self, began: float) -> None:
        """`began` is `time.perf_counter()` at the start of the work; until the first phase all is `start`."""
        self._began, self._resumed = began, began
        self._booked = dict.fromkeys(PHASES, 0.0)
        self._open = ["start"]
        self._reached = self._step = 0
        self._started_at = time.time() - (time.perf_counter() - began)
        self._stream: TextIO | None = None

    def attach(self, folder: Path, step: int) -> None:
        """Start-up is over: go on from `step`, below what earlier processes wrote into `folder`."""
        self._switch("other")
        earlier = read_ledger(folder)
        self._step, self._reached = step, max([step, *(line["step"] for line in earlier)])
        write_atomically(folder / LEDGER, "".join(json.dumps(line) + "\n" for line in earlier))
        self._stream = (folder / LEDGER).open("a", encoding="utf-8")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self.write(self._step)
            self._stream.close()

    @contextlib.contextmanager
    def phase(self, name: str, step: int | None = None) -> Iterator[None]:
        """Book what happens inside under `name`; with the number of a `step` done before, under `replayed`."""
        outer = self._open[0]
        self._switch("replayed" if step is not None and step <= self._reached else name)
        try:
            yield
        finally:
            self._switch(outer)

    def write(self, step: int) -> None:
        """Append the account up to now; `step` is the last one done."""
        self._switch(self._open[0])
        self._step, self._reached = step, max(step, self._reached)
        if self._stream is not None:
            self._stream.write(json.dumps(self.account()) + "\n")
            self._stream.flush()

    def working(self) -> float:
        """Seconds spent on steps so far: rows and compute, first time or again."""
        return self._booked["data"] + self._booked["compute"] + self._booked["replayed"]

    def account(self) -> dict[str, Any]:
        """This process's line: when it began, how long it worked, the step it reached, seconds by phase."""
        return {
            "process": f"{os.getpid()}-{self._started_at:.3f}",
            "began": round(self._started_at, 3),
            "seconds": round(self._resumed - self._began, 6),
            "step": self._step,
            "phases": {name: round(seconds, 6) for name, seconds in self._booked.items()},
        }

    def _switch(self, name: str) -> None:
        now = time.perf_counter()
        self._booked[self._open[0]] += now - self._resumed
        self._resumed, self._open[0] = now, name


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The last line of each process, in the order of their starts; a line cut off by a kill is left out."""
    path = folder / LEDGER
    lines: dict[str, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            lines[line["process"]] = line
    return list(lines.values())


def totals(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds by phase over all processes."""
    return {name: sum(line["phases"].get(name, 0.0) for line in lines) for name in PHASES}


def print_ledger(folder: Path) -> None:
    """The table that a finished run ends with."""
    lines = read_ledger(folder)
    seconds = totals(lines)
    whole = sum(seconds.values())
    count = f"{len(lines)} process{'es' if len(lines) > 1 else ''}"
    rows = [(name, duration(spent), f"{100 * spent / whole:.1f} %", MEANINGS[name]) for name, spent in seconds.items()]
    table(f"Where {duration(whole)} of {count} went", ("phase", "time", "share", ""), rows)
