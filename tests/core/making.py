"""What tests of parts and units share: a stage whose units are files of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slm.core.errors import UserError
from slm.core.units import Tick, publish


class Numbers(NamedTuple):
    """A unit: so many lines."""

    key: str
    bytes: int


class Counting(NamedTuple):
    """Work that writes lines; a unit named `bad` is a user's mistake, one named `unneeded` is not needed."""

    root: Path
    units: Sequence[Numbers]
    workers: int = 1
    executor: str = "processes"
    stage: str = "counting"

    def make(self, unit: Numbers, tick: Tick) -> int:
        def write(folder: Path) -> dict[str, Any]:
            if unit.key == "bad":
                raise UserError("bad: a unit of this name cannot be made; give it another")
            (folder / "lines").write_text("".join(f"{unit.key} {number}\n" for number in range(unit.bytes)))
            tick(unit.bytes // 2, 10 * unit.bytes)
            return {"documents": unit.bytes}

        return int(publish(self.root, unit, write)["documents"])

    def needed(self) -> Callable[[Numbers], bool]:
        return lambda unit: unit.key != "unneeded"


def counting(root: Path, count: int = 12, **settings: Any) -> Counting:
    return Counting(root, tuple(Numbers(f"unit{number}", 100 + number) for number in range(count)), **settings)
