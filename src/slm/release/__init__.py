"""A run to a bundle that may leave the house, or a list of everything that forbids it.

In: the run's export, its evaluation and what they were made from. Out: an artifact with the model files, the
tokenizer, the results, the manifests of the whole lineage and `SHA256SUMS`, published only if every check of the gate
held. `slm verify BUNDLE` repeats what can be repeated from the bundle alone, on any machine. No part of the chain of
stages unless asked for (`to=release`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact:
    """Check the recipe's run and publish its bundle; `UserError` with every failed check."""
    from slm.release.stage import run as run_stage

    return run_stage(recipe)
