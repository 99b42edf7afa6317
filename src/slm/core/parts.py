"""All units of a stage's work, made by this process, by several, or on a Ray cluster.

In: the work: a plan of units and a function that makes one. Out: a finished folder for each unit of a part. Everybody
calls `make_units` with a number and a total: part i of n makes units i, i + n, i + 2n, ... that are not there yet.
Workers divide a part once more in the same way. So a killed part goes on at the first unit that is missing, and
nobody has to know of anybody else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from slm.core.console import Progress, duration, say, speak
from slm.core.errors import UserError, is_disk_full
from slm.core.units import Tick, Unit, is_finished, remove_abandoned

TOLD_EVERY_SECONDS = 0.5
MEGABYTE = 1_000_000


class Work(Protocol):
    """What a stage makes unit by unit; it is sent to other processes."""

    @property
    def stage(self) -> str:
        """The stage's name, whose settings `workers` and `executor` say who makes it."""

    @property
    def units(self) -> Sequence[Unit]:
        """All units, in order."""

    @property
    def root(self) -> Path:
        """Where finished units are put."""

    @property
    def workers(self) -> int:
        """Processes, or tasks of Ray."""

    @property
    def executor(self) -> str:
        """`processes` or `ray`."""

    def make(self, unit: Any, tick: Tick) -> int:
        """Make one unit; returns how many documents were read for it."""

    def needed(self) -> Callable[[Any], bool]:
        """What says of a unit whether it has to be made; asked of each in order."""


class Part(NamedTuple):
    """Every `total`-th of some units, from number `number` on."""

    work: Work
    units: Sequence[Unit]
    number: int = 0
    total: int = 1

    def mine(self) -> Sequence[Unit]:
        """The units of this part."""
        return self.units[self.number :: self.total]

    def divided(self, workers: int) -> list[Part]:
        """The same units as parts for so many workers, none of them without a unit."""
        count = max(1, min(workers, len(self.mine())))
        return [self._replace(number=self.number + self.total * n, total=self.total * count) for n in range(count)]


Told = Callable[[int, int], None]
"""Is told the documents read and the bytes of units done since the start, every now and then."""


def part_of(stage: str, text: str) -> tuple[int, int]:
    """`2/8` as numbers; the whole, `0/1`, where it is empty."""
    number, _, total = (text or "0/1").partition("/")
    if int(number) >= int(total):
        raise UserError(
            f"{stage}.part ({text}) counts from 0: the parts of {total} are 0/{total} to {int(total) - 1}/{total}"
        )
    return int(number), int(total)


def make_asked(work: Work, part: str) -> None:
    """Make the units of a part such as `2/8` that are not there, and say what is; the other parts make the rest."""
    make_units(work, *part_of(work.stage, part))
    there = sum(is_finished(work.root, unit) for unit in work.units)
    say(
        f"{work.stage}: part {part} is made, {there:,} of {len(work.units):,} units are there; the same command "
        f"without {work.stage}.part makes what is missing and puts all together"
    )


def make_units(work: Work, number: int = 0, total: int = 1) -> None:
    """Make every unit of a part that is not there; `UserError` where a source or a worker fails."""
    work.root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(work.root)
    mine = Part(work, work.units, number, total).mine()
    missing = [unit for unit in mine if not is_finished(work.root, unit)]
    if not missing:
        return
    whole = sum(unit.bytes for unit in mine)
    parts = Part(work, missing).divided(work.workers)
    with Meter(work.stage, whole, whole - sum(unit.bytes for unit in missing)) as meter:
        if work.executor == "ray":
            _by_ray(parts, meter)
        elif len(parts) == 1:
            with _room_needed(parts[0]):
                make_part(parts[0], lambda documents, num_bytes: meter.tell(0, documents, num_bytes))
        else:
            _by_processes(parts, meter)


def make_part(part: Part, told: Told) -> None:
    """Make the units of one part; what the work shows not to be needed is passed over."""
    work, needed = part.work, part.work.needed()
    documents = num_bytes = 0
    for unit in part.mine():
        if needed(unit) and not is_finished(work.root, unit):
            before = documents, num_bytes

            def tick(inside: int, read: int, before: tuple[int, int] = before, unit: Unit = unit) -> None:
                told(before[0] + inside, before[1] + min(read, unit.bytes))

            documents += work.make(unit, tick)
        num_bytes += unit.bytes
        told(documents, num_bytes)


class Meter:
    """Progress of all workers together: megabytes of units, documents, and documents a second."""

    def __init__(self, stage: str, total_bytes: int, done_bytes: int) -> None:
        self._start, self._told = done_bytes, done_bytes // MEGABYTE
        self._began = time.monotonic()
        self._state: dict[int, tuple[int, int]] = {}
        self._progress = Progress(stage, total_bytes // MEGABYTE or None, "MB", self._told)

    def __enter__(self) -> Meter:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def tell(self, worker: int, documents: int, num_bytes: int) -> None:
        """What a worker has done since its start."""
        self._state[worker] = documents, num_bytes
        read = sum(state[0] for state in self._state.values())
        megabytes = (self._start + sum(state[1] for state in self._state.values())) // MEGABYTE
        rate = read / max(time.monotonic() - self._began, 1e-9)
        self._progress.advance(max(megabytes - self._told, 0), f"{read:,} documents, {rate:,.0f} documents/s")
        self._told = max(megabytes, self._told)


def _by_processes(parts: Sequence[Part], meter: Meter) -> None:
    """One process a part; none is left when this returns or raises."""
    context = multiprocessing.get_context("spawn")
    links: dict[Any, int] = {}
    workers = []
    try:
        for number, part in enumerate(parts):
            receiving, sending = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(part, sending), daemon=True)
            worker.start()
            sending.close()
            links[receiving] = number
            workers.append(worker)
        while links:
            for link in wait(list(links)):
                _hear(link, links, workers, parts[0].work.stage, meter)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        remove_abandoned(parts[0].work.root)


def _hear(link: Any, links: dict[Any, int], workers: Sequence[Any], stage: str, meter: Meter) -> None:
    """Take one message of a worker, or its end."""
    number = links[link]
    try:
        message = link.recv()
    except EOFError:
        worker = workers[number]
        worker.join()
        del links[link]
        if worker.exitcode:
            raise UserError(_ended(stage, worker.pid, worker.exitcode)) from None
        return
    if isinstance(message, str):
        raise UserError(message)
    meter.tell(number, *message)


def _ended(stage: str, process: int, status: int) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
    return (
        f"process {process}, one of {stage}.workers, {how}; finished units are kept, so run the same command again, "
        "with fewer workers if memory ran out"
    )


def _work(part: Part, link: Connection) -> None:
    """What a worker process does: its part, until it is done, fails, or the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    speak(False)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    last = [0.0]

    def told(documents: int, num_bytes: int) -> None:
        if time.monotonic() - last[0] >= TOLD_EVERY_SECONDS:
            last[0] = time.monotonic()
            link.send((documents, num_bytes))

    message = _message_of(part, told)
    if message:
        link.send(message)
    link.close()


def _message_of(part: Part, told: Told) -> str:
    """Make a part; what a person can mend comes back as its sentence, since not every error can be sent."""
    try:
        with _room_needed(part):
            make_part(part, told)
    except UserError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _room_needed(part: Part) -> Iterator[None]:
    """A full disk as a sentence that says where."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"No space left on device while units were written to {part.work.root}; free some space and run the same "
            "command again: finished units are kept"
        ) from error


def _say_nothing(documents: int, num_bytes: int) -> None:
    """A task on another machine has nobody to tell."""
    del documents, num_bytes


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _by_ray(parts: Sequence[Part], meter: Meter) -> None:
    """One task a part on the Ray cluster that RAY_ADDRESS names, or on one started here for as long as it takes."""
    stage = parts[0].work.stage
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"{stage}.executor=ray needs Ray, which is not installed; pip install '.[ray]', or choose processes"
        ) from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    began = time.monotonic()
    try:
        task = ray.remote(num_cpus=1, max_retries=3)(_ray_part)
        pending = {task.remote(part): number for number, part in enumerate(parts)}
        while pending:
            finished, _ = ray.wait(list(pending), num_returns=1)
            for reference in finished:
                number = pending.pop(reference)
                message = ray.get(reference)
                if message:
                    raise UserError(message)
                meter.tell(number, 0, sum(unit.bytes for unit in parts[number].mine()))
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"a task of {stage}.executor=ray failed after {duration(time.monotonic() - began)} ({reason}); finished "
            "units are kept, so run the same command again"
        ) from error
    finally:
        if started:
            ray.shutdown()


def _ray_part(part: Part) -> str:
    speak(False)
    return _message_of(part, _say_nothing)
