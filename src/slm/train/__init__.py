"""The one loop: packed shards and an objective to checkpoints.

In: the shards and tokenizer that the recipe names. Out: `<run>/train` with checkpoints, `latest` and
`metrics.jsonl`. The same command continues a run that was stopped in any way, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Spec, require_parent
from slm.core.config import Config
from slm.model.config import ModelConfig
from slm.objective.config import ObjectiveConfig
from slm.train.config import TrainConfig

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
    require_parent(parents["shards"], "tokenizer", parents["tokenizer"])
    training = Training(model=recipe.model, objective=recipe.objective, train=recipe.train)
    return Spec("train", training, parents, seed=recipe.seed)


def run(recipe: Recipe) -> Artifact:
    """Train to the end, from the newest sound checkpoint if there is one; returns the last checkpoint."""
    from slm.core.artifact import newest, open_artifact
    from slm.core.console import say

    spec = specification(recipe)
    folder = recipe.folder("train")
    if (folder / "latest").is_file() and not recipe.redo:
        done = open_artifact(newest(folder), "train") if (newest(folder) / "manifest.json").is_file() else None
        if done is not None and done.key == spec.key and done.counts["finished"]:
            say(f"train: up to date in {done.path} ({done.fingerprint[:12]})")
            return done
    from slm.train.loop import train

    return train(recipe, spec)
