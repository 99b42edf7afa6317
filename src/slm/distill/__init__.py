"""A teacher's distributions of the packed rows, written down once for any number of students."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact | None:
    """Store what the recipe's teacher says of the train rows; None where a part was asked for."""
    from slm.distill.stage import run as run_stage

    return run_stage(recipe)
