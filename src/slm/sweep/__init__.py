"""Many runs of one recipe, each a process of its own: a search for settings, and changes one at a time.

In: a recipe with a section `sweep`. Out: `<run>/sweep` with the study, its trials and a page, and what the best trials
are worth with other seeds; or the evaluations that `slm ablation` compares. All runs share text, vocabulary and rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.recipe import Recipe


def run(recipe: Recipe, typed: list[str]) -> None:
    """Search the recipe's space; `typed` is what stood on the command line, for the commands that are printed."""
    from slm.sweep.stage import sweep

    sweep(recipe, typed)
