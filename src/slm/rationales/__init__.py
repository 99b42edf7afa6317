"""Short rationales by a teacher: why answers that are known are right, kept where its own answer is the known one.

In: task files with answers, and a teacher: a model here or a server. Out: an artifact with `label.jsonl` and
`rationale.jsonl`, conversations that a corpus reads as two sources: two tasks, told apart by the word in front of the
question (Hsieh et al., arXiv 2305.02301), whose shares `shards.mixture` sets. `slm ablation` trains without the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact:
    """Ask the teacher that the recipe names for what is still missing, and keep what is right and short."""
    from slm.rationales.stage import run as run_stage

    return run_stage(recipe)
