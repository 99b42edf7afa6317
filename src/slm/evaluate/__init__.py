"""A trained model to numbers: bits per byte with an interval, beside baselines, and golden prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact, Spec
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact:
    """Score the newest checkpoint of `recipe` on the held-out documents; a failed golden prompt is an error."""
    from slm.evaluate.stage import run as run_stage

    return run_stage(recipe)


def specification(recipe: Recipe) -> Spec:
    """What the run's evaluation is made from."""
    from slm.evaluate.stage import specification as specified

    return specified(recipe)
