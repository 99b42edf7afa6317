"""The command `slm sweep`: the search, its best trials again with other seeds, a table, a page, a command to type.

In: the recipe and what was typed. Out: `<run>/sweep/sweep.html` and `sweep.png`, and on the terminal the trials, what
the finalists are worth beside the recipe as it is, and how to train one. The lowest of many noisy values is lower than
what its settings are worth (the winner's curse), so no trial is called best: finalists are trained again with seeds
that the search did not see, and compared with the recipe seed by seed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact, write_atomically
from slm.core.console import duration, say, table
from slm.core.errors import UserError
from slm.evaluate.measurements import BITS_PER_BYTE
from slm.evaluate.trials import Finalist, Trial, best
from slm.recipe import Recipe
from slm.sweep.search import search, shown
from slm.sweep.study import importances, open_study, search_folder, trial_name, trials_of
from slm.sweep.variants import evaluated, make_shared, variant

if TYPE_CHECKING:
    from slm.report.sweep import Search

ROWS = 12


def sweep(recipe: Recipe, typed: Sequence[str]) -> None:
    """Search, train the finalists again, say and draw what came of it."""
    if not recipe.sweep.space:
        raise UserError(
            "sweep.space is empty, so there is nothing to search; name settings, such as "
            "'sweep.space=[{key: train.optimizer.lr, low: 1e-3, high: 1e-1, log: true}]'"
        )
    make_shared(recipe)
    study = open_study(recipe)
    search(study, recipe)
    trials = trials_of(study)
    if not any(one.state == "finished" for one in trials):
        raise UserError(f"no trial came to its end: {[one.reason for one in trials if one.reason][-1]}")
    found = finalists(recipe, trials) if all(one.state != "running" for one in trials) else []
    from slm.report.sweep import Search, picture, sweep_page

    keys = [one.key for one in recipe.sweep.space]
    result = Search(
        recipe.run, keys, [one.key for one in recipe.sweep.space if one.log], trials, importances(study), found,
        [command(one.trial, recipe, typed) for one in found],
    )  # fmt: skip
    folder = search_folder(recipe)
    write_atomically(folder / "sweep.html", sweep_page(result))
    picture(folder / "sweep.png", result)
    tell(result)
    say(f"sweep: {folder / 'sweep.html'}")


def finalists(recipe: Recipe, trials: Sequence[Trial]) -> list[Finalist]:
    """The best trials and the recipe as it is under seeds that the search did not see, best mean first."""
    from slm.evaluate.ablation import ablate

    chosen = {
        trial_name(one.number): one
        for one in best(trials, recipe.sweep.finalists)
        if _differs(recipe, variant(recipe, "x", one.settings))
    }
    if not chosen:
        return []
    changes: dict[str, dict[str, Any]] = {"base": {}, **{name: dict(one.settings) for name, one in chosen.items()}}
    evaluations = evaluated(recipe, "finalists", changes)
    compared = ablate([one for some in evaluations.values() for one in some], first_is_base=True)
    effects = {one.runs[0].partition("-seed")[0]: one for one in compared.effects if one.metric == BITS_PER_BYTE}
    found = []
    for name, one in chosen.items():
        effect = effects[name]
        again = _last_measured(evaluations[name])
        found.append(Finalist(one, effect.changed, again, effect.difference, effect.corrected_p))
    return sorted(found, key=lambda one: one.over_seeds.value)


def command(trial: Trial, recipe: Recipe, typed: Sequence[str]) -> str:
    """What trains a trial's settings as a run of its own, to be typed."""
    kept = [word for word in typed if not word.startswith(("sweep.", "sweep=", "run=", "redo=", "-"))]
    settings = [f"{key}={value}" for key, value in trial.settings.items()]
    words = [*kept, *settings, f"run={recipe.run}-{trial_name(trial.number)}"]
    return f"python -m slm.pipeline {' '.join(map(shlex.quote, words))}"


def tell(result: Search) -> None:
    """The trials, the finalists and the commands."""
    from slm.report.sweep import FINALIST_COLUMNS, counted, finalist_rows, verdict

    done = best(result.trials, ROWS)
    rows = [
        (trial_name(one.number), f"{one.value:.4f}", *(shown(one.settings[key]) for key in result.keys)) for one in done
    ]
    table(f"{counted(result.trials)}; the lowest:", ("trial", "bits per byte", *result.keys), rows)
    for one in result.trials:
        if one.state == "failed":
            say(f"sweep: {trial_name(one.number)} failed: {one.reason}")
    took = sum(one.seconds for one in result.trials)
    say(f"sweep: {duration(took)} and {sum(one.flops for one in result.trials):.3g} FLOPs for all trials")
    if result.finalists:
        table("The finalists again, with other seeds", FINALIST_COLUMNS, finalist_rows(result))
    say(f"sweep: {verdict(result)}")
    for line in result.commands:
        say(f"  {line}")


def _last_measured(evaluations: Sequence[Artifact]) -> float:
    """Mean over runs of the held-out bits per byte at the end of their training, as the search measures them."""
    from slm.train.metrics import METRICS, read_metrics

    rows = [read_metrics(one.path.parent / "train" / METRICS) for one in evaluations]
    return fmean([row["bits_per_byte"] for row in some if row["kind"] == "evaluate"][-1] for some in rows)


def _differs(recipe: Recipe, other: Recipe) -> bool:
    return any(getattr(recipe, name) != getattr(other, name) for name in ("model", "objective", "train"))
