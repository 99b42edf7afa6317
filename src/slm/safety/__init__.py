"""What a model does that it should not: a gate of its own, beside quality.

In: the run's model as people get it, prompts by path, and bounds. Out: an artifact with `results.json` and
`answers.jsonl`: how often it refuses what it should and what it should not, how often its answers are toxic or hold
addresses, whether it gives away its instructions, and how much it remembers of planted secrets; each with a 95 %
interval. A bound that the interval does not keep fails the stage after its results are saved. No part of the chain of
stages unless asked for; a release needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe


def run(recipe: Recipe) -> Artifact:
    """Measure the run's model; `UserError` naming each bound that does not hold."""
    from slm.safety.stage import run as run_stage

    return run_stage(recipe)
