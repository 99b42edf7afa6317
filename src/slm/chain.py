"""`slm chain recipe=NAME`: runs one after the other, each from the weights of the one before, and what each was worth.

In: a recipe whose `sweep.chain` names steps, such as distilling, then LoRA, each by the settings in which it differs
from the recipe. Each is a run of its own (`RUN/chain/STEP`), trained and evaluated in a process of its own; the first
begins as the recipe says, each other with the weights of the one before, merged where that had adapters; of the last
`compress.variants` are made. What is there is kept, so the same command goes on after a kill, and a step whose
predecessor has changed is refused by its lineage. Out: bits per byte after each step with the paired difference to the
one before, KL where it was measured, sizes, as a table and as a page (`RUN/chain/chain.html`); the teacher of the first
step stands above, where it was evaluated on the same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slm.compose import command
from slm.core.artifact import Artifact, write_atomically
from slm.core.console import say, table
from slm.core.errors import Stopped, UserError
from slm.recipe import Recipe, Stage
from slm.sweep.process import held, run_folder, started, was_stopped, why_it_ended
from slm.sweep.variants import make_shared, variant


def run(recipe: Recipe) -> None:
    """Make the runs of the chain, print and draw what each step did."""
    if not recipe.sweep.chain:
        raise UserError(
            "sweep.chain is empty, so there is nothing to do; name steps, such as "
            "'sweep.chain=[{name: long}, {name: short, settings: {train.tokens: 32768}}]'"
        )
    make_shared(recipe)
    runs = steps(recipe)
    for number, one in enumerate(runs, 1):
        last = number == len(runs)
        made(one, ("train", "evaluate", *(("compress",) if last and recipe.compress.variants else ())))
    from slm.report.chain import COLUMNS, chain_page, rows_of, told

    names = [step.name for step in recipe.sweep.chain]
    evaluations = dict(zip(names, [one.artifact("evaluate") for one in runs], strict=True))
    compressed = runs[-1].artifact("compress") if recipe.compress.variants else None
    rows = rows_of(teacher_of(runs[0]), evaluations, compressed)
    table(f"{recipe.run}, step by step", COLUMNS, told(rows))
    place = Path(recipe.runs_dir) / recipe.run / "chain" / "chain.html"
    write_atomically(place, chain_page(recipe.run, rows))
    say(f"chain: {place}")


def steps(recipe: Recipe) -> list[Recipe]:
    """The recipe of each run; `ProblemsError` where the settings of one do not fit together."""
    found: list[Recipe] = []
    for step in recipe.sweep.chain:
        before = {"train.initial": str(run_folder(found[-1]))} if found else {}
        found.append(variant(recipe, f"chain/{step.name}", {**before, **step.settings}))
    return found


def made(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Run the stages of one step, which keep what is there; `UserError` with the reason where that fails."""
    with held(run_folder(recipe), wait=True) as lock:
        assert lock is not None  # waited for
        say(f"chain: {recipe.run}: {', '.join(stages)}")
        with started(recipe, stages, lock) as process:
            status = process.wait()
    if was_stopped(status):
        raise Stopped(f"{recipe.run} was stopped")
    if status:
        raise UserError(
            f"{recipe.run} failed: {why_it_ended(recipe, status)} (see {run_folder(recipe)}); the steps before it are "
            "kept: mend that and give the same command again"
        )


def teacher_of(recipe: Recipe) -> Artifact | None:
    """The evaluation of the run that teaches the first step; None where nobody does or there is none of it as it is."""
    from slm.evaluate.measurements import evaluation_of
    from slm.evaluate.scaling import checkpoint_of

    if not recipe.objective.distill.teacher:
        return None
    try:
        found = evaluation_of(Path(recipe.objective.distill.teacher))
        checkpoint_of(found)
    except UserError as error:
        say(f"chain: the teacher has no row: {error}")
        return None
    return found


def main() -> None:
    """Make and compare the runs of a recipe's chain."""
    command("chain", run)


if __name__ == "__main__":
    main()
