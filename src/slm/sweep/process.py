"""One run of many, in a process of its own: what dies there takes nothing else with it.

In: the recipe of a run and the stages to run. Out: a process that works on them, its words in `output.txt` beside
what it makes. It ends like a scheduler's job (saving, status 85) when its parent is gone, however that ended, since it
then reads the end of its standard input. A run is worked on by whoever holds its lock, which the process holds too: a
second parent takes the run over only after both are gone. Locks are `flock`'s, so processes on several machines may
share runs where the file system has them (NFS from version 4 on, Lustre mounted with flock).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from slm.core.errors import EXIT_REQUEUE
from slm.recipe import Recipe, Stage

OUTPUT, LOCK = "output.txt", "lock"
COMMAND = (sys.executable, "-m", "slm.one_of_many")


@contextlib.contextmanager
def held(folder: Path, *, wait: bool = False) -> Iterator[int | None]:
    """The lock of a folder, or None where another holds it and there is no `wait`; made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield stream.fileno()


@contextlib.contextmanager
def started(recipe: Recipe, stages: Sequence[Stage], lock: int) -> Iterator[subprocess.Popen[str]]:
    """A process that runs stages of a recipe; it is asked to stop, and waited for, when this is left before its end."""
    folder = run_folder(recipe)
    with (folder / OUTPUT).open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True, pass_fds=(lock,)
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"recipe": recipe.resolved(), "stages": list(stages)}) + "\n")
            process.stdin.flush()
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def run_folder(recipe: Recipe) -> Path:
    """Where the stages of a run lie."""
    return Path(recipe.runs_dir) / recipe.run


def why_it_ended(recipe: Recipe, status: int) -> str:
    """In words, from what a process that failed said last."""
    text = (run_folder(recipe) / OUTPUT).read_text(encoding="utf-8", errors="replace")
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return errors[-1] if errors else said[-1] if said else f"status {status}"


def was_stopped(status: int) -> bool:
    """Whether a process left because it was asked to, by a signal or a deadline, and would go on."""
    return status == EXIT_REQUEUE


def leave_with_parent() -> None:
    """Ask this process to stop once its standard input ends; for a thread."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
