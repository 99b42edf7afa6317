"""A process that does its work in turns, when it is told to, so that several sides share a machine's busy moments.

The process prints lines of JSON: one when it is ready, one for each turn, and, told `end`, its memory. What else it
prints is passed over.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any


class Side:
    """One such process; its first turn warms up and is not counted."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.memory: dict[str, int] = {}
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def __enter__(self) -> Side:
        self._read()
        self.ask("1")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.memory = self.ask("end")
        else:
            self._process.kill()
        self._process.communicate()

    @property
    def used_bytes(self) -> int:
        """What model, optimizer and steps took beyond the imported libraries."""
        return int(self.memory["peak_bytes"] - self.memory["before_bytes"])

    def ask(self, line: str) -> Any:
        """What the process answers to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith(('{"', "[")):
                return json.loads(line)
        raise SystemExit(f"error: a side ended with status {self._process.wait()}")


def take_turns(sides: Mapping[str, Side], rounds: int, turn: str = "1") -> dict[str, list[Any]]:
    """All sides' answers to `rounds` turns, one side after the other; their processes have ended then."""
    answers: dict[str, list[Any]] = {name: [] for name in sides}
    try:
        for side in sides.values():
            side.__enter__()
        for _ in range(rounds):
            for name, side in sides.items():
                answers[name].append(side.ask(turn))
    except BaseException as error:
        for side in sides.values():
            side.__exit__(type(error), error, None)
        raise
    for side in sides.values():
        side.__exit__(None, None, None)
    return answers
