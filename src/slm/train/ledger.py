"""Where the time of a run went: each second is booked under one phase, over all processes that worked on it.

In: `with ledger.phase("save"):` around the parts of the loop. Out: `ledger.jsonl` beside the metrics and a
table at the end. A line holds a process's own account so far, with the energy that it drew; it is appended at
each logged step and every 5 s between two phases, so that a killed process is counted as far as that, and the
next start keeps the last line of each. Seconds that no phase claims are `other`, so an account always sums to
its process's wall-clock, from the creation of the process where the command began with the training.

`replayed` is compute and data of steps that had been done before: a kill, a stop or a rewind threw them
away. What went before counts as done up to the last line. Cost: two clock readings a phase.
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
from slm.core.console import duration, say, table
from slm.core.energy import Energy, Reading, add_up, energy_text, kilowatt_hours
from slm.train.devices import UNKNOWN

LEDGER = "ledger.jsonl"
HEARTBEAT_SECONDS = 5.0
PHASES = ("start", "compile", "data", "generate", "compute", "save", "evaluate", "sample", "replayed", "other")
MEANINGS = {
    "start": "reading shards and checkpoint, building, probing",
    "compile": "making code for this model and shape",
    "data": "waiting for rows",
    "generate": "the student's own answers",
    "compute": "forward, backward, optimizer",
    "save": "writing checkpoints",
    "evaluate": "held-out loss",
    "sample": "continuing the prompts",
    "replayed": "steps done again after a stop",
    "other": "logging and the rest",
}


class Ledger:
    """The account of this process; a context manager that closes it however the process ends."""

    def __init__(self, began: float, energy: Energy | None = None) -> None:
        """`began` is `time.perf_counter()` at the start of the work; until the first phase all is `start`."""
        self._energy, self._joules, self._written = energy, 0.0, began
        self._began, self._resumed = began, began
        self._booked = dict.fromkeys(PHASES, 0.0)
        self._open = ["start"]
        self._reached = self._step = 0
        self._started_at = time.time() - (time.perf_counter() - began)
        self._stream: TextIO | None = None
        self._behind: dict[str, float] = {}
        self._key = ""

    def attach(self, folder: Path | None, step: int, key: str = "") -> None:
        """Start-up is over: go on from `step`, below what earlier processes wrote into `folder`.

        `key` names what is trained: processes that trained something else there, before `redo`, are left out.
        Of several processes that train together one has a folder; the others' time is spent alike.
        """
        self._switch("other")
        self._step = self._reached = step
        self._key = key[:12]
        if folder is None:
            return
        earlier = [line for line in read_ledger(folder) if line.get("key", self._key) == self._key]
        self._reached = max([step, *(line["step"] for line in earlier)])
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
        if self._energy is not None:
            self._energy.close()

    @contextlib.contextmanager
    def phase(self, name: str, step: int | None = None) -> Iterator[None]:
        """Book what happens inside under `name`; with the number of a `step` done before, under `replayed`."""
        outer = self._open[0]
        if step is not None:
            self._done(step - 1)
        self._switch("replayed" if step is not None and step <= self._reached else name)
        try:
            yield
        finally:
            self._switch(outer)
            if self._resumed - self._written > HEARTBEAT_SECONDS:
                self._append()

    def write(self, step: int) -> None:
        """Append the account up to now; `step` is the last one done."""
        self._switch(self._open[0])
        self._done(step)
        self._append()

    def behind(self, **figures: float) -> None:
        """Add to the figures of what was done behind the steps, such as `saves=1, save_seconds=2.5`."""
        for name, figure in figures.items():
            self._behind[name] = round(self._behind.get(name, 0) + figure, 6)

    def working(self) -> float:
        """Seconds spent on steps so far: rows, answers and compute, first time or again."""
        return sum(self._booked[name] for name in ("data", "generate", "compute", "replayed"))

    def joules(self) -> float | str:
        """Energy drawn since this was last asked, for the log; the word for unknown where it is."""
        found = kilowatt_hours(self._energy.read()) if self._energy else None
        if found is None:
            return UNKNOWN
        before, self._joules = self._joules, found * 3.6e6
        return self._joules - before

    def account(self) -> dict[str, Any]:
        """This process's line: when it began, how long it worked, the step it reached, seconds by phase, joules."""
        return {
            "key": self._key,
            "process": f"{os.getpid()}-{self._started_at:.3f}",
            "began": round(self._started_at, 3),
            "seconds": round(self._resumed - self._began, 6),
            "step": self._step,
            "phases": {name: round(seconds, 6) for name, seconds in self._booked.items()},
            "energy_joules": self._energy.read() if self._energy else {},
            "behind": dict(self._behind),
        }

    def _done(self, step: int) -> None:
        self._step, self._reached = step, max(step, self._reached)

    def _append(self) -> None:
        self._written = self._resumed
        if self._stream is not None:
            self._stream.write(json.dumps(self.account()) + "\n")
            self._stream.flush()

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


def behind(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures of what was done behind the steps, over all processes."""
    names = dict.fromkeys(name for line in lines for name in line.get("behind", {}))
    return {name: sum(line.get("behind", {}).get(name, 0) for line in lines) for name in names}


def _say_behind(figures: dict[str, float]) -> None:
    if figures.get("saves"):
        say(
            f"train: {figures['saves']:,.0f} saves took {figures['save_seconds']:.3g} s and held the steps up for "
            f"{figures['stall_seconds']:.3g} s ({100 * figures['stall_seconds'] / figures['save_seconds']:.1f} %)"
        )
    if "uploads" in figures:
        say(
            f"train: {figures['uploads']:,.0f} uploads took {figures['upload_seconds']:.3g} s behind the steps; "
            f"{figures['upload_retries']:,.0f} requests made again, {figures['uploads_failed']:,.0f} given up, "
            f"{figures['uploads_overtaken']:,.0f} overtaken by newer ones, {figures['uploads_missing']:,.0f} left"
        )


def totals_of_run(folder: Path, price_per_hour: float) -> dict[str, Any]:
    """Columns of a run's last row: hours, energy and cost over all its processes, `unknown` where they are."""
    lines = read_ledger(folder)
    hours, energy = sum(totals(lines).values()) / 3600, kilowatt_hours(energy_of(lines))
    return {
        "hours": hours,
        "energy_kwh": UNKNOWN if energy is None else energy,
        "cost": hours * price_per_hour or UNKNOWN,
    }


def energy_of(lines: Sequence[dict[str, Any]]) -> dict[str, Reading]:
    """Joules by part over all processes, or why they are unknown."""
    return add_up([line.get("energy_joules") or {"cpu": "not recorded by an earlier process"} for line in lines])


def idle_seconds(lines: Sequence[dict[str, Any]]) -> float:
    """Time between the processes, in which nobody worked on the run."""
    ends = [line["began"] + line["seconds"] for line in lines]
    return float(sum(max(after["began"] - end, 0.0) for end, after in zip(ends, lines[1:], strict=False)))


def print_ledger(folder: Path, price_per_hour: float) -> None:
    """The table that a finished run ends with, what it drew and what it cost."""
    lines = read_ledger(folder)
    seconds = totals(lines)
    whole = sum(seconds.values())
    count = f"{len(lines)} process{'es' if len(lines) > 1 else ''}"
    between = f", with {duration(idle_seconds(lines))} between them," if len(lines) > 1 else ""
    rows = [(name, duration(spent), f"{100 * spent / whole:.1f} %", MEANINGS[name]) for name, spent in seconds.items()]
    table(f"Where {duration(whole)} of {count}{between} went", ("phase", "time", "share", ""), rows)
    _say_behind(behind(lines))
    say(f"train: {energy_text(energy_of(lines))}")
    if price_per_hour:
        say(f"train: cost {whole / 3600 * price_per_hour:,.2f}, {duration(whole)} at {price_per_hour:,.2f} an hour")
    else:
        say("train: cost unknown: train.price_per_hour is not set")


def process_began() -> float:
    """`time.perf_counter()` when this process was created, so that reading the program counts as start; Linux."""
    began = time.perf_counter()
    with contextlib.suppress(OSError, AttributeError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        began -= time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return began
