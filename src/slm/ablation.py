"""`slm ablation recipe=NAME` or `slm ablation RUN RUN ... [PAGE.html]`: what each change of a recipe is worth.

In: a recipe whose `sweep.changes` names changes, which are trained and evaluated one at a time beside the recipe as it
is, each with the same seeds (what is there is kept, so the same command goes on after a kill, and several processes may
share it); or evaluated runs, such as `-m seed=1,2,3 train.optimizer.lr=0.01,0.02` makes. Out: the base with its mean
over seeds, and for each change the difference with its interval over seeds and a p value corrected for their number, as
a table and as a page (`ablation.html` beside the runs, unless named).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slm.compose import command
from slm.core.artifact import write_atomically
from slm.core.console import say, table
from slm.core.errors import ProblemsError, UserError
from slm.recipe import Recipe

if TYPE_CHECKING:
    from slm.evaluate.ablation import Ablation
    from slm.sweep.variants import Settings


def ablation(arguments: Sequence[str]) -> None:
    """Compare runs, or make them first."""
    if any(word.startswith("recipe=") for word in arguments):
        sys.argv = ["slm ablation", *arguments]
        command("ablation", run)
        return
    paths = [Path(word) for word in arguments if not word.endswith(".html")]
    pages = [Path(word) for word in arguments if word.endswith(".html")]
    if len(paths) < 2 or len(pages) > 1 or any("=" in word for word in arguments):
        raise ProblemsError(
            ["usage: slm ablation recipe=NAME [KEY=VALUE ...], or slm ablation RUN RUN ... [PAGE.html], such as "
             "slm ablation runs/smoke-*"]
        )  # fmt: skip
    from slm.evaluate.ablation import ablate
    from slm.evaluate.measurements import evaluation_of

    show(ablate([evaluation_of(path) for path in paths]), pages[0] if pages else paths[0].parent / "ablation.html")


def run(recipe: Recipe) -> None:
    """Make the runs of the recipe's changes, and compare them with the recipe as it is."""
    if not recipe.sweep.changes:
        raise UserError(
            "sweep.changes is empty, so there is nothing to compare; name changes, such as "
            "'sweep.changes=[{train.optimizer.lr: 0.003}, {train.clip_norm: 0}]'"
        )
    from slm.evaluate.ablation import ablate
    from slm.sweep.variants import evaluated, make_shared

    changes = {f"change-{number}": change for number, change in enumerate(recipe.sweep.changes, 1)}
    _require_different(recipe, changes)
    make_shared(recipe)
    evaluations = evaluated(recipe, "ablation", {"base": {}, **changes})
    found = ablate([one for some in evaluations.values() for one in some], first_is_base=True)
    show(found, Path(recipe.runs_dir) / recipe.run / "ablation" / "ablation.html")


def _require_different(recipe: Recipe, changes: Mapping[str, Settings]) -> None:
    from slm.sweep.variants import variant

    known = {"the recipe as it is": variant(recipe, "ablation/same", {})}
    for name, change in changes.items():
        asked = variant(recipe, "ablation/same", change)
        for other, there in known.items():
            if asked == there:
                raise UserError(
                    f"sweep.changes: {name} ({json.dumps(change)}) says the same as {other}, so there is nothing to "
                    "compare; take it out"
                )
        known[name] = asked


def show(found: Ablation, place: Path) -> None:
    """Print the paired table and write the page."""
    from slm.report.ablation import COLUMNS, COSTS, ablation_page, costs, rows

    seeds = next(iter(found.base.seeds.values()))
    say(f"ablation: the base is {', '.join(found.base.runs)} (seeds {', '.join(map(str, sorted(seeds)))})")
    table("Each change against the base", COLUMNS, rows(found))
    table("What each took", COSTS, costs(found))
    write_atomically(place, ablation_page(found))
    say(f"ablation: {place}")
