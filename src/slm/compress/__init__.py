"""Checkpoint to low-bit integers, with what that cost measured on held-out text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact:
    """Make the recipe's variants of its newest checkpoint, measure each, publish all or nothing."""
    from slm.compress.stage import run as run_stage

    return run_stage(recipe)
