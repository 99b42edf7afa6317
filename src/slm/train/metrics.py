"""Where a run's figures go: `metrics.jsonl` always; Weights & Biases and TensorBoard when asked.

A row is a flat JSON object with `kind` (train, layers, noise, evaluate, evaluate_failed, tasks, sample, skip,
rewind, finished), `step` and `tokens`. On resume, rows past the step resumed from are cut off, and what was written
after that step's save, so the file reads as if the run had never stopped. After a rewind steps begin again at a lower
number; rows from then on say how often that has happened (`rewinds`), and what was before stays.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from slm.core.artifact import write_atomically
from slm.core.console import say
from slm.core.errors import UserError

if TYPE_CHECKING:
    from slm.core.distributed import World
    from slm.objective.loss import Loss
    from slm.recipe import Recipe

METRICS = "metrics.jsonl"
BEFORE_SAVE = frozenset({"train", "skip", "layers", "noise"})
"""Kinds of rows that a step writes before it saves."""


class Metrics:
    """The open sinks of one run; a context manager."""

    def __init__(self, recipe: Recipe, folder: Path, resumed_step: int, rewinds: int = 0) -> None:
        self.rewinds = rewinds
        self._wandb = _open_wandb(recipe, folder) if recipe.train.wandb != "off" else None
        self._tensorboard = _open_tensorboard(folder, resumed_step) if recipe.train.tensorboard else None
        path = folder / METRICS
        rows = [row for row in read_metrics(path) if _stays(row, resumed_step, rewinds)]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._stream = path.open("a", encoding="utf-8")

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)
        if self._tensorboard is not None:
            self._tensorboard.close()

    def write(self, kind: str, step: int, tokens: int, **values: Any) -> None:
        """Append one row to every sink; text goes to the file alone."""
        row = {"kind": kind, "step": step, "tokens": tokens, **values}
        if self.rewinds:
            row["rewinds"] = self.rewinds
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, int | float)}
        if self._wandb is not None and numbers:
            self._wandb.log({**numbers, "tokens": tokens}, step=step)
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)


class NoMetrics(Metrics):
    """What a process has that writes no metrics, because another one does."""

    def __init__(self) -> None:
        self.rewinds = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def write(self, kind: str, step: int, tokens: int, **values: Any) -> None:
        """Nothing is written."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; none where there is no file. A last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}:{number} is not JSON ({error}); delete that line") from error
    return rows


def _stays(row: dict[str, Any], resumed_step: int, rewinds: int) -> bool:
    """True for what had been written when the checkpoint of `resumed_step` was saved."""
    past = row.get("rewinds", 0)
    if past != rewinds:
        return bool(past < rewinds)
    return bool(row["step"] < resumed_step + (row["kind"] in BEFORE_SAVE))


def _open_wandb(recipe: Recipe, folder: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.wandb needs wandb, which is not installed; pip install 'slm[wandb]'") from error
    mode: Literal["online", "offline"] = "online" if recipe.train.wandb == "online" else "offline"
    if mode == "online" and not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").is_file()):
        say("train: no WANDB_API_KEY, so Weights & Biases runs offline; `wandb sync` uploads it later")
        mode = "offline"
    return wandb.init(
        project="slm",
        name=recipe.run,
        id=recipe.run.replace("/", "-"),
        resume="allow" if mode == "online" else None,
        mode=mode,
        dir=folder,
        config=recipe.resolved(),
        settings=wandb.Settings(silent=True, console="off"),
    )


def _open_tensorboard(folder: Path, resumed_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "train.tensorboard needs tensorboard, which is not installed; pip install 'slm[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)


class StepFigures:
    """What an objective says of a step beside its loss: sums over targets, or over what it says, added up over
    the micro-batches."""

    BY_ROW = "nats_by_row"
    """Not one of them: see `slm.train.sources`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def begin(self) -> None:
        """Forget the step before."""
        self._sums, self._counts = {}, {}

    def add(self, loss: Loss, *, counts: bool = True) -> None:
        """Count one micro-batch; without `counts` only learn which figures there are."""
        for name, value in loss.metrics.items():
            if name != self.BY_ROW:
                self._sums[name] = self._sums.get(name, 0.0) + counts * float(value)
                self._counts[name] = self._counts.get(name, 0.0) + counts * float(loss.counts.get(name, loss.tokens))

    def take(self, world: World) -> dict[str, float]:
        """Each figure per target, or whatever it is counted by, over all processes; none of what there was none of."""
        found = world.sum(*self._sums.values(), *self._counts.values()) if self._sums else []
        sums, counts = found[: len(self._sums)], found[len(self._sums) :]
        return {name: value / count for name, value, count in zip(self._sums, sums, counts, strict=True) if count}
