"""A program: for each line on its standard input, a training in a process of its own that kills itself at a point.

A line is JSON: the `recipe`'s file, the `point`, the `number` of the time there, the `environment` and the file for
what it `said`. What takes seconds is imported once, by a process without threads; each training is a fork of it. Its
exit status, as `subprocess` gives it, is a line of the output.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  # what a run would import on its way, as is the next
import torch._dynamo  # noqa: F401

import slm.core.store
import slm.train
import slm.train.evaluation
import slm.train.saver
from slm.core import artifact
from slm.core.provenance import git_commit, library_versions
from slm.recipe import Recipe
from slm.train import checkpoint, loop


def deadly(function: Callable[..., Any], number: int, matches: Callable[..., bool]) -> Callable[..., Any]:
    """The function, which kills the process when it is called for the `number`-th time with what `matches`."""
    seen = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        if matches(*args):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def half_deleted(path: Path | str, **_: Any) -> bool:
    """Whether a checkpoint is deleted: its manifest is gone by then, and now one file more."""
    if Path(path).suffix or not Path(path).name.startswith("step-000000"):
        return False
    next(Path(path).iterdir()).unlink()
    return True


def is_named(name: str) -> Callable[..., bool]:
    """Whether a file of that name is written."""
    return lambda path, *_: path.name == name


def always(*_: Any) -> bool:
    """At each call."""
    return True


POINTS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "step": (loop, "forward_backward", always),
    "write": (checkpoint, "save_file", always),
    "manifest": (artifact, "write_atomically", is_named("manifest.json")),
    "rename": (artifact, "_replace", always),
    "latest": (checkpoint, "write_atomically", is_named("latest")),
    "prune": (shutil, "rmtree", half_deleted),
    "snapshot": (slm.train.saver.Saver, "_copied", always),
    "upload": (slm.core.store.Store, "upload", always),
    "evaluate": (slm.train.evaluation.Evaluator, "__call__", always),
    "batch": (slm.train.evaluation, "read_batch", always),
}
"""By name: what holds the function, its name, and which of its calls count."""


def train(order: dict[str, Any]) -> None:
    """What an order asks for; comes back only where the point was not reached so often."""
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(order["environment"])
    place, name, matches = POINTS[order["point"]]
    setattr(place, name, deadly(getattr(place, name), order["number"], matches))
    slm.train.run(Recipe.model_validate_json(Path(order["recipe"]).read_text()))
    print(f"survived: {order['point']} was not reached {order['number']} times")


def main() -> None:
    """One training after the other."""
    library_versions()  # both are looked up once a process; children find them looked up
    git_commit()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                train(json.loads(line))
                status = 0
            finally:
                if (error := sys.exception()) is not None:
                    traceback.print_exception(error)
                sys.stdout.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
