"""What a person sees: facts, tables and progress.

On a terminal, progress is a bar with rate and time left; anywhere else (a log, CI, sbatch) it is one
plain line every few seconds, so logs stay readable. Everything goes to standard output but the bars,
which go to standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

Item = TypeVar("Item")

LINE_EVERY_SECONDS = 5.0
_speaking = [True]


def speak(aloud: bool) -> None:
    """Whether this process says anything; of several that do the same work one does."""
    _speaking[0] = aloud


def speaking() -> bool:
    """Whether what is said here is printed."""
    return _speaking[0]


def say(message: str) -> None:
    """Print one line for people, at once."""
    if speaking():
        print(message, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers are aligned to the right."""
    if not speaking():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    materialised = [[cell if isinstance(cell, str) else quantity(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(materialised) and all(_looks_numeric(row[index]) for row in materialised)
        grid.add_column(column, justify="right" if numeric else "left")
    for row in materialised:
        grid.add_row(*row)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, markup=False, highlight=False).print(grid)


def quantity(value: object) -> str:
    """A number as people read it: 1,234 for counts, four significant digits for measurements."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return str(value)


def size(num_bytes: float) -> str:
    """Bytes in decimal units, as disks are sold: `size(8_800_000) == "8.8 MB"`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Progress of one long piece of work; use it as a context manager and call `advance`."""

    def __init__(self, description: str, total: int | None, unit: str, start: int = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self._start, self._done, self._told, self._note = start, start, start, ""
        self._began = self._printed = time.monotonic()
        self._bar = _terminal_bar(description, total, unit, start) if sys.stderr.isatty() and speaking() else None

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar[0].stop()
        elif self._done > self._told > self._start:  # a last line, unless none was due or it stands there already
            self._line()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move on by `count` units; `note` is shown at the end of the line."""
        self._done += count
        self._note = note or self._note
        if self._bar:
            bar, task = self._bar
            bar.update(task, advance=count, note=self._note)
        elif time.monotonic() - self._printed >= LINE_EVERY_SECONDS:
            self._line()

    def _line(self) -> None:
        self._printed, self._told = time.monotonic(), self._done
        elapsed = max(self._printed - self._began, 1e-9)
        rate = (self._done - self._start) / elapsed
        parts = [f"{self.description}: {self._done:,}"]
        if self.total:
            left = max(self.total - self._done, 0) / rate if rate else 0.0
            parts[0] += f"/{self.total:,}"
            parts.append(f"{100 * self._done / self.total:.0f} %")
            tail = f"{duration(left)} left" if self._done < self.total else f"took {duration(elapsed)}"
        else:
            tail = duration(elapsed)
        parts += [f"{quantity(rate)} {self.unit}/s", tail]
        say(", ".join([f"{parts[0]} {self.unit}", *parts[1:]]) + (f"; {self._note}" if self._note else ""))


def track(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield `items` unchanged while showing progress."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _terminal_bar(description: str, total: int | None, unit: str, start: int) -> tuple[Bar, TaskID]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns: list[rich_progress.ProgressColumn] = [
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,.0f}" + (f"/{total:,}" if total else "") + f" {unit}"),
        rich_progress.TimeRemainingColumn() if total else rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
    ]
    bar = rich_progress.Progress(*columns, console=Console(stderr=True))
    return bar, bar.add_task(description, total=total, completed=start, note="")


def _looks_numeric(cell: str) -> bool:
    text = cell.strip().rstrip("%").replace(",", "").split(" ")[0]
    try:
        float(text)
    except ValueError:
        return cell in ("", "-")
    return True
