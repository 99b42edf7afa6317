"""Trials one after the other: train, look at each measurement, end early what is not worth its end.

In: a study and the recipe. Out: the study, with every trial told. A trial is the real train stage in a process of its
own; its measurements are the evaluations that training makes anyway, read from its metrics as they come and judged in
their order, so what is decided does not depend on how fast they are read. A process that dies, or settings that do not
fit together, make a failed trial with its reason, and the search goes on; it gives up where its first trials all fail.
Weights of a trial go when it is told: finalists are trained again, with other seeds.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from slm.core.console import say
from slm.core.errors import Stopped, UserError
from slm.recipe import Recipe
from slm.sweep.process import started, was_stopped, why_it_ended
from slm.sweep.study import FLOPS, REASON, SECONDS, next_trial, trial_name, trials_of
from slm.sweep.variants import LOOK_SECONDS, variant

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial as OptunaTrial

HOPELESS = 3
"""So many failed trials before any other outcome end the search."""
STARTING_SECONDS = 10.0
"""How long the processes of a search that was killed are given to leave their trials."""


def search(study: Study, recipe: Recipe) -> None:
    """Work on trials until none is left to begin; `UserError` where the first ones all failed."""
    waited = time.monotonic()
    while True:
        with next_trial(study, recipe) as found:
            if found is not None:
                work(study, recipe, *found)
                waited = time.monotonic()
        trials = trials_of(study)
        if len(trials) >= HOPELESS and all(one.state == "failed" for one in trials):
            raise UserError(f"the first {len(trials)} trials all failed, the last because {trials[-1].reason}")
        if found is None:
            busy = [trial_name(one.number) for one in trials if one.state == "running"]
            if not busy or time.monotonic() - waited > STARTING_SECONDS:
                if busy:
                    say(f"sweep: other processes work on {', '.join(busy)}; they say what came of it when they end")
                return
            time.sleep(LOOK_SECONDS)


def work(study: Study, recipe: Recipe, trial: OptunaTrial, lock: int) -> None:
    """Bring one trial to its end."""
    from optuna.trial import TrialState

    settings = ", ".join(f"{key}={shown(value)}" for key, value in trial.params.items())
    say(f"sweep: {trial_name(trial.number)} of {recipe.sweep.trials}: {settings}")
    try:
        one, last = trial_recipe(recipe, trial)
        _reserve(study, recipe, trial, one)
    except UserError as error:
        _tell(study, trial, TrialState.FAIL, " ".join(str(error).split()))
        return
    with started(one, ("train",), lock) as process:
        while True:
            status = process.poll()
            if not follow(trial, one, last):
                process.terminate()
                process.wait()
                status = None
                break
            if status is not None:
                break
            time.sleep(LOOK_SECONDS)
    if status is not None and was_stopped(status):
        raise Stopped(f"{one.run} was stopped")
    _book(trial, one)
    if status is None:
        _tell(study, trial, TrialState.PRUNED)
    elif status == 0 and last in measured(one):
        study.tell(trial, measured(one)[last])
        say(f"sweep: {trial_name(trial.number)}: {measured(one)[last]:.4f} bits per byte")
    else:
        _tell(study, trial, TrialState.FAIL, why_it_ended(one, status) if status else "it was never measured")
    for checkpoint in one.folder("train").glob("step-*"):
        shutil.rmtree(checkpoint)


def trial_recipe(recipe: Recipe, trial: OptunaTrial) -> tuple[Recipe, int]:
    """The recipe of a trial, measured so often as the search says, and the number of its last measurement."""
    from slm.train.plan import plan

    name = f"sweep/{trial_name(trial.number)}"
    one = variant(recipe, name, trial.params)
    every = -(-plan(one).steps // recipe.sweep.measurements)
    saving = {"train.evaluate_every_steps": every, "train.checkpoints.keep_last": 1, "redo": False}
    return variant(recipe, name, {**trial.params, **saving}), -(-plan(one).steps // every)


def measured(one: Recipe) -> dict[int, float]:
    """Held-out bits per byte by number of the measurement, from 1."""
    from slm.train.metrics import METRICS, read_metrics

    every = one.train.evaluate_every_steps
    rows = read_metrics(one.folder("train") / METRICS)
    return {-(-row["step"] // every): row["bits_per_byte"] for row in rows if row["kind"] == "evaluate"}


def follow(trial: OptunaTrial, one: Recipe, last: int) -> bool:
    """Report what was measured since the last look, in order; False once the trial is not worth its end."""
    told = trial.storage.get_trial(trial._trial_id).intermediate_values
    for number, value in sorted(measured(one).items()):
        if number not in told:
            trial.report(value, number)
        if number >= max(told, default=0) and number < last and trial.should_prune():
            return False
    return True


def shown(value: object) -> str:
    """A setting as it can be typed."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _reserve(study: Study, recipe: Recipe, trial: OptunaTrial, one: Recipe) -> None:
    """Book what a trial may take before it begins; `UserError` where that is more than is left."""
    from slm.train.plan import plan

    most, flops = recipe.sweep.max_flops, plan(one).flops
    spent = sum(other.flops for other in trials_of(study) if other.number != trial.number)
    if most and spent + flops > most:
        raise UserError(f"it takes {flops:.3g} FLOPs, and sweep.max_flops leaves {most - spent:.3g}")
    trial.set_user_attr(FLOPS, flops)


def _book(trial: OptunaTrial, one: Recipe) -> None:
    """Put down what a trial took."""
    from slm.train.ledger import totals_of_run
    from slm.train.metrics import METRICS, read_metrics
    from slm.train.plan import plan

    facts, rows = plan(one), read_metrics(one.folder("train") / METRICS)
    tokens = max((row["tokens"] for row in rows), default=0)
    trial.set_user_attr(FLOPS, facts.flops * tokens / facts.tokens)
    trial.set_user_attr(SECONDS, 3600 * totals_of_run(one.folder("train"), 0.0)["hours"])


def _tell(study: Study, trial: OptunaTrial, state: object, reason: str = "") -> None:
    from optuna.trial import TrialState

    if reason:
        trial.set_user_attr(REASON, reason)
    if state == TrialState.FAIL and FLOPS not in trial.user_attrs:
        trial.set_user_attr(FLOPS, 0.0)
    study.tell(trial, state=state)
    word = "ended early" if state == TrialState.PRUNED else f"failed: {reason}"
    say(f"sweep: {trial_name(trial.number)}: {word}")
