"""Variants of a recipe: the same but for some settings, over the same shards, each with seeds of its own.

In: a recipe and changes by dotted key. Out: recipes whose runs lie in `RUN/KIND/NAME` and take text, vocabulary and
rows from the recipe's own run; or, with `evaluated`, the evaluations of all of them under several seeds. Runs are
made one after the other, each in a process (`slm.sweep.process`); what is there is not made again, and several
processes that are given the same divide the runs among them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

from slm.core.artifact import Artifact
from slm.core.console import say
from slm.core.errors import Stopped, UserError
from slm.recipe import Recipe, Stage, build_recipe
from slm.sweep.process import held, run_folder, started, was_stopped, why_it_ended

SHARED: tuple[Stage, ...] = ("corpus", "tokenizer", "shards")
"""What all variants have in common."""
LOOK_SECONDS = 0.2
Settings = Mapping[str, Any]
"""Values by dotted key."""


def make_shared(recipe: Recipe) -> None:
    """Text, vocabulary, rows and the teacher's store, where one is read, of all variants, unless they are there."""
    for stage in (*SHARED, *(["distill"] if recipe.objective.reads_store else [])):
        if not getattr(recipe.artifacts, stage):
            importlib.import_module(f"slm.{stage}").run(recipe)


def variant(recipe: Recipe, name: str, settings: Settings) -> Recipe:
    """The recipe with other settings, as run `name` below its own; `ProblemsError` where they do not fit together."""
    values = recipe.resolved()
    shared = {f"artifacts.{stage}": str(recipe.folder(stage)) for stage in SHARED}
    values["artifacts"]["distill"] = ""  # until it is known whether the variant reads the store
    for key, value in {**shared, "run": f"{recipe.run}/{name}", **settings}.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place[section] = place[section] or {}  # a section that is absent
            place = place[section]
        place[last] = value
    made = build_recipe(values)
    if not made.objective.reads_store:
        return made
    places = made.artifacts.model_copy(update={"distill": str(recipe.folder("distill"))})
    return made.model_copy(update={"artifacts": places})


def evaluated(recipe: Recipe, kind: str, changes: Mapping[str, Settings]) -> dict[str, list[Artifact]]:
    """The evaluations of each change by name, under each seed; `UserError` naming the runs that failed."""
    config = recipe.sweep
    seeds = range(recipe.seed + 1, recipe.seed + 1 + config.seeds)
    runs = {
        (name, seed): variant(recipe, f"{kind}/{name}-seed{seed}", {**settings, "seed": seed})
        for seed in seeds
        for name, settings in changes.items()
    }
    waiting, failed = list(runs), []
    while waiting:
        busy = []
        for name, seed in waiting:
            one = runs[name, seed]
            with held(run_folder(one)) as lock:
                if lock is None:
                    busy.append((name, seed))
                    continue
                say(f"{kind}: {name}, seed {seed}")
                if reason := made(one, lock):
                    failed.append(f"{name} with seed {seed}: {reason} (see {run_folder(one)})")
        if busy == waiting:
            time.sleep(LOOK_SECONDS)
        waiting = busy
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}; the others are kept")
    return {name: [runs[name, seed].artifact("evaluate") for seed in seeds] for name in changes}


def made(recipe: Recipe, lock: int) -> str:
    """Train and evaluate a run, unless that is done; returns why it failed, nothing where it did not."""
    if not recipe.redo and _is_made(recipe):
        return ""
    with started(recipe, ("train", "evaluate"), lock) as process:
        status = process.wait()
    if was_stopped(status):
        raise Stopped(f"{recipe.run} was stopped")
    return why_it_ended(recipe, status) if status else ""


def _is_made(recipe: Recipe) -> bool:
    """Whether checkpoint and evaluation are there, made from what they would be made from now."""
    from slm import evaluate, train

    try:
        if train.finished(recipe, train.specification(recipe)) is None:
            return False
        evaluation = recipe.artifact("evaluate")
        return evaluation.key == evaluate.specification(recipe).key and not evaluation.counts["golden_failed"]
    except UserError:  # which the stage says itself
        return False
