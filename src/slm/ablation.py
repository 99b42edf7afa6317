"""`slm ablation RUN RUN ...`: what each change of a recipe is worth, over seeds, one thing changed at a time.

In: evaluated runs, such as `-m seed=1,2,3 train.optimizer.lr=0.01,0.02` makes. Out: the base with its mean over
seeds, and for each change the difference with its interval over seeds and a p value corrected for their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slm.core.console import say, table
from slm.core.errors import ProblemsError


def ablation(arguments: Sequence[str]) -> None:
    """Print the paired table."""
    if len(arguments) < 2 or any("=" in word for word in arguments):
        raise ProblemsError(["usage: slm ablation RUN RUN ..., such as slm ablation runs/smoke-*"])
    from slm.evaluate.ablation import ablate
    from slm.evaluate.measurements import evaluation_of
    from slm.evaluate.statistics.power import LEVEL

    found = ablate([evaluation_of(Path(word)) for word in arguments])
    seeds = next(iter(found.base.seeds.values()))
    say(f"ablation: the base is {', '.join(found.base.runs)} (seeds {', '.join(map(str, sorted(seeds)))})")
    rows = []
    for one in found.effects:
        gap = one.difference
        word = "not told from chance" if one.corrected_p > LEVEL else "worse"
        if word == "worse" and (gap.value < 0) == one.lower_is_better:
            word = "better"
        rows.append(
            (
                one.change, one.metric, f"{one.base.value:.4f}", f"{one.changed.value:.4f}",
                f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]", "seed by seed" if gap.paired else "Welch",
                f"{one.corrected_p:.2g}", word if one.num_changed == 1 else f"{word}; {one.num_changed} things at once",
            )
        )  # fmt: skip
    columns = ("change", "metric", "base", "changed", "difference [95 % over seeds]", "test", "p, Holm", "verdict")
    table("Each change against the base", columns, rows)
