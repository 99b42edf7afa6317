"""The one loop: packed shards and an objective to checkpoints.

In: the shards and tokenizer that the recipe names. Out: `<run>/train` with checkpoints, `latest`,
`metrics.jsonl` and `ledger.jsonl`. The same command continues a run that was stopped in any way, bit for bit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Spec, require_parent
from slm.core.config import Config
from slm.core.console import say
from slm.core.distributed import session
from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.objective.config import ObjectiveConfig
from slm.train.config import TrainConfig
from slm.train.initial import check_rows, initial_model, reference_of, store_of, teacher_of
from slm.train.metrics import METRICS, read_metrics

if TYPE_CHECKING:
    from slm.recipe import Recipe


class Training(Config):
    """The sections that shape a checkpoint."""

    model: ModelConfig
    objective: ObjectiveConfig
    train: TrainConfig


def specification(recipe: Recipe) -> Spec:
    """What the run's checkpoints are made from."""
    parents = {"shards": recipe.artifact("shards"), "tokenizer": recipe.artifact("tokenizer")}
    inputs: dict[str, str] = {}
    require_parent(parents["shards"], "tokenizer", parents["tokenizer"])
    check_rows(recipe, parents["shards"])
    if recipe.train.initial:
        parents["initial"], inputs = initial_model(recipe, parents["tokenizer"])
    if recipe.objective.reads_store:
        parents["distill"] = store_of(recipe, parents)
    elif recipe.objective.kind == "distill":
        parents["teacher"] = teacher_of(recipe, parents["tokenizer"])
    if recipe.objective.preference.reference:
        parents["reference"] = reference_of(recipe, parents["tokenizer"])
    training = Training(model=recipe.model, objective=recipe.objective, train=recipe.train)
    return Spec("train", training, parents, inputs, seed=recipe.seed)


def run(recipe: Recipe, began: float | None = None) -> Artifact:
    """Train to the end, from the newest sound checkpoint if there is one; returns the last checkpoint.

    `began` is `time.perf_counter()` when the work began, where that was before this call.
    """
    began = began or time.perf_counter()
    with session(recipe.train.device) as world:
        spec = specification(recipe)
        done = None if recipe.redo else world.lead(lambda: finished(recipe, spec))
        if done is not None:
            say(f"train: up to date in {done.path} ({done.fingerprint[:12]})")
            if recipe.train.checkpoints.remote and world.leader:
                from slm.train.remote import upload_missing

                upload_missing(recipe)
            return done
        from slm.train.loop import train

        return train(recipe, spec, began, world)


def finished(recipe: Recipe, spec: Spec) -> Artifact | None:
    """The last checkpoint of a run that reached its end; anything else is for the loop to sort out."""
    try:
        checkpoint = recipe.artifact("train")
    except UserError:
        return None
    if checkpoint.key != spec.key or not checkpoint.counts["finished"]:
        return None
    rows = read_metrics(recipe.folder("train") / METRICS)
    return checkpoint if rows and rows[-1]["kind"] == "finished" else None
