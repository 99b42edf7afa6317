"""Evaluating while training, after the save: held-out loss, tasks, samples; what fails there is recorded and not fatal.

In: the published weights after a step. Out: rows `evaluate`, `tasks` and `sample` of the metrics, or
`evaluate_failed` with the reason. It changes nothing of what shapes the next step.

Of several processes each takes every n-th batch. Where one fails (rows that cannot be read, memory that does not
suffice) it leaves out the rest of its part but still agrees with the others at each batch, and at the end all hear of
it and go on training. Models in shards exchange weights within a forward, where the others would wait for ever for one
that failed. So all agree before each forward, on whether all have their rows, and what fails in the forward itself is
raised: it ends the run, and the same command comes to the same evaluation again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from slm.core.artifact import Artifact
from slm.core.batch import Batch
from slm.core.console import Progress, say
from slm.core.distributed import World
from slm.model.transformer import Transformer
from slm.objective.loss import Loss, Objective
from slm.recipe import Recipe
from slm.shards.loader import read_batch
from slm.shards.preferences import rows_together
from slm.shards.reader import ShardReader
from slm.train.devices import free_memory
from slm.train.metrics import Metrics, StepFigures
from slm.train.parallel import Parallel
from slm.train.precision import Precision, autocast
from slm.train.samples import continuation
from slm.train.stop import StopRequest
from slm.train.tasks import task_figures

if TYPE_CHECKING:
    from slm.train.loop import Run

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
REASON_CHARACTERS = 300


class EvaluationError(Exception):
    """Why an evaluation failed in one of the processes; raised in all of them."""


class Setback:
    """What went wrong first in this process's part; in words, for an error holds the tensors of its frames."""

    def __init__(self) -> None:
        self.reason = ""

    def attempt(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result | None:
        """What `work` gives; None if it fails, and once something has failed."""
        if self.reason:
            return None
        try:
            return work(*arguments, **named)
        except Exception as error:  # noqa: BLE001  (whatever it is, training goes on)
            self.reason = f"{type(error).__name__}: {error}".splitlines()[0][:REASON_CHARACTERS]
        return None

    def share(self, world: World) -> None:
        """Raise `EvaluationError` in every process if something went wrong in one; all must call it."""
        reasons = world.together(lambda: self.reason)
        if any(reasons):
            raise EvaluationError(next(reason for reason in reasons if reason))


def evaluate(recipe: Recipe, run: Run, metrics: Metrics, progress: Progress) -> None:
    """Evaluate; where that fails a row of the metrics says why, and training goes on.

    What fails within a forward of a model in shards is raised.
    """
    state, reason = run.state, ""
    bits = {"rounded_to_bits": run.rounding.bits} if run.rounding.begun(state.tokens) else {}
    try:
        with run.rounding.applied(state.published, state.tokens):
            with run.ledger.phase("evaluate"):
                held_out = run.evaluator(state.published, run.stop)
            metrics.write("evaluate", state.step, state.tokens, **held_out, **bits)
            told = f" in {run.rounding.bits} bits" if bits else ""
            progress.advance(0, f"held out {held_out['bits_per_byte']:.3f} bits/byte{told}")
            if recipe.train.tasks:
                write_tasks(recipe, run, metrics)
            if recipe.train.sample_prompts:
                write_samples(recipe, run, metrics)
    except EvaluationError as error:
        reason = str(error)
    if reason:  # by now the error is gone, and with it the tensors that its frames held
        free_memory(run.device)
        metrics.write("evaluate_failed", state.step, state.tokens, reason=reason)
        if not run.evaluations_failed:
            say(f"train: the evaluation at step {state.step:,} failed ({reason}); training goes on")
        run.evaluations_failed += 1


def write_samples(recipe: Recipe, run: Run, metrics: Metrics) -> None:
    """What the model says to the recipe's prompts, by rank 0 alone, as rows of the metrics; all must call it."""
    state, setback = run.state, Setback()
    build = run.parallel.whole(state.published)
    model = setback.attempt(build) if build else None
    for prompt in recipe.train.sample_prompts:
        run.stop.leave_if_asked()
        if model is None:
            continue
        with run.ledger.phase("sample"):
            text = setback.attempt(continuation, model, run.tokenizer, prompt, recipe.seed, state.step)
        if text is not None:
            metrics.write("sample", state.step, state.tokens, prompt=prompt, text=text)
    setback.share(run.parallel.world)


def write_tasks(recipe: Recipe, run: Run, metrics: Metrics) -> None:
    """How the model does on the recipe's tasks, by rank 0 alone, as a row of the metrics; all must call it."""
    state, setback = run.state, Setback()
    build = run.parallel.whole(state.published)
    model = setback.attempt(build) if build else None
    if model is not None:
        with run.ledger.phase("evaluate"):
            figures = setback.attempt(task_figures, recipe, model, run.tokenizer, run.precision)
        if figures is not None:
            metrics.write("tasks", state.step, state.tokens, **figures)
    setback.share(run.parallel.world)


class Evaluator:
    """Loss and bits per byte over a fixed part of the held-out rows."""

    def __init__(
        self,
        recipe: Recipe,
        shards: Artifact,
        objective: Objective,
        device: str,
        precision: Precision,
        step_rows: int,
        parallel: Parallel,
    ) -> None:
        self._reader = ShardReader(shards, "validation")
        together = rows_together(shards)
        self._rows = max(together, min(recipe.train.evaluate_rows, self._reader.num_rows) // together * together)
        self._step_rows = step_rows
        counts = shards.counts["validation"]
        self._targets_per_byte = counts["targets"] / counts["bytes"]
        self._objective, self._device, self._precision = objective, device, precision
        self._parallel = parallel

    @torch.no_grad()
    def __call__(self, model: Transformer, stop: StopRequest) -> dict[str, float]:
        """`{"loss": nats per token, "bits_per_byte": ...}`; bytes by the held-out set's mean bytes per token.

        With them what the objective says beside its loss.

        Raises `EvaluationError` in all processes where one failed; what fails in the forward of shards as it is.
        """
        began, nats, tokens = time.perf_counter(), 0.0, 0.0
        world, setback, figures = self._parallel.world, Setback(), StepFigures()
        for first in range(0, self._rows, self._step_rows * world.size):  # each process takes every n-th batch
            stop.leave_if_asked()
            mine = first + self._step_rows * world.rank
            begin = mine if mine < self._rows else 0  # a forward for the others' sake, which is not counted
            batch = setback.attempt(self._read, begin)
            if self._parallel.shards and world.any(batch is None):
                break
            sums = self._sums(model, batch) if self._parallel.shards else setback.attempt(self._sums, model, batch)
            if sums is not None and begin == mine:
                nats, tokens = nats + float(sums.cross_entropy_sum), tokens + sums.tokens
            if sums is not None:
                figures.add(sums, counts=begin == mine)
        setback.share(world)
        nats, tokens = world.sum(nats, tokens)
        if not tokens:
            raise EvaluationError("the held-out rows have no targets")
        mean = nats / tokens
        return {
            "loss": mean,
            "bits_per_byte": mean / math.log(2) * self._targets_per_byte,
            **figures.take(world),
            "seconds": time.perf_counter() - began,
        }

    def _read(self, begin: int) -> Batch:
        rows = range(begin, min(begin + self._step_rows, self._rows))
        return read_batch(self._reader, rows).to(self._device)

    def _sums(self, model: Transformer, batch: Batch | None) -> Loss:
        """What a batch comes to."""
        assert batch is not None  # else something has failed, and nothing is attempted
        with autocast(self._device, self._precision):
            loss = self._objective(model, batch)
        self._parallel.settle(model)
        return loss
