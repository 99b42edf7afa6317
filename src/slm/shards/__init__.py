"""Documents to token-packed Arrow shards, their order, and the loader with the token cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact | None:
    """Tokenize and pack the corpus of `recipe`; the shards in the run's folder, None where a part was asked for."""
    from slm.shards.stage import run as run_stage

    return run_stage(recipe)
