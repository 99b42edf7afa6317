"""What each of several processes runs in the tests: `processes.py RECIPE.json[:WHAT:RANK:STEP] ...`.

One recipe is run as the command line runs it. Several are trained one after the other in one session, which
spares starting Python for each; a stop ends that recipe alone. In process RANK, at its STEP-th forward and
backward, WHAT happens: stop (SIGTERM), die, fail (a mistake of the user's), or from there on for two steps
poison (a loss that is not a number). Or at its STEP-th time there: stop-save and stop-evaluation (SIGTERM), unread
(the rows of an evaluation), unheard (its forward), speechless (its samples). With `again` nothing is trained: what was
saved is loaded and saved again. With `lost` the folder of checkpoints is deleted before. With `offload` the optimizer
works on copies, as it does beside a GPU.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import slm.train
from slm.compose import guarded
from slm.core.distributed import World, launched, session
from slm.core.errors import Stopped, UserError
from slm.recipe import Recipe
from slm.train import checkpoint, evaluation, loop

FORWARD_BACKWARD, OFFLOADS = loop.forward_backward, loop.offloads
PLACES = {
    "stop-save": (checkpoint, "save_file"),
    "stop-evaluation": (evaluation, "read_batch"),
    "unread": (evaluation, "read_batch"),
    "unheard": (evaluation.Evaluator, "_sums"),
    "speechless": (evaluation, "continuation"),
}
HONEST = {what: getattr(*place) for what, place in PLACES.items()}


def train(word: str, world: World | None = None) -> None:
    file, what, rank, step = [*word.split(":"), *("", "0", "0")[word.count(":") :]]
    arrange(what, int(rank), int(step))
    recipe = Recipe.model_validate_json(Path(file).read_text())
    if world is None:
        slm.train.run(recipe)
        return
    if what == "again":
        save_again(recipe, world)
        return
    if what == "lost":
        world.lead(lambda: shutil.rmtree(recipe.folder("train")))
    try:
        loop.train(recipe, slm.train.specification(recipe), None, world)
    except Stopped as stopped:
        print(f"rank {world.rank} stopped: {stopped}", flush=True)


def save_again(recipe: Recipe, world: World) -> None:
    run = loop.prepare(recipe, slm.train.specification(recipe), None, world)
    counts = {"step": run.state.step, "tokens": run.state.tokens, "finished": True}
    snapshot = checkpoint.collect(run.state)
    checkpoint.publish(run.folder.parent / f"again-{world.size}", run.spec, snapshot, counts, run.state.saving)


def arrange(what: str, rank: int, step: int) -> None:
    count = 0

    def watched(run, batches, clip_norm):
        nonlocal count
        count += 1
        chosen = launched().rank == rank
        if chosen and what == "poison" and step <= count < step + 2:
            honest = run.objective
            run.objective = lambda model, batch: poisoned(honest(model, batch))
            try:
                return FORWARD_BACKWARD(run, batches, clip_norm)
            finally:
                run.objective = honest
        if chosen and count == step and what not in PLACES:
            happen(what)
        return FORWARD_BACKWARD(run, batches, clip_norm)

    loop.forward_backward = watched
    for name, place in PLACES.items():
        setattr(*place, HONEST[name])
    if what in PLACES and launched().rank == rank:
        setattr(*PLACES[what], happening(HONEST[what], what, step))
    loop.offloads = (lambda *_: True) if what == "offload" else OFFLOADS
    if what == "full" and launched().rank == rank:
        checkpoint.save_file = disk_full


def happening(function, what, number):
    count = 0

    def counted(*arguments, **named):
        nonlocal count
        count += 1
        if count == number:
            happen(what)
        return function(*arguments, **named)

    return counted


def happen(what: str) -> None:
    if what.startswith("stop"):
        os.kill(os.getpid(), signal.SIGTERM)
    elif what in PLACES:
        raise MemoryError(f"{what}, for want of room")
    elif what == "die":
        os._exit(3)
    elif what == "fail":
        raise UserError("the moon is full; wait")


def poisoned(loss):
    nothing = float("nan")
    return replace(loss, nats_sum=loss.nats_sum * nothing, cross_entropy_sum=loss.cross_entropy_sum * nothing)


def disk_full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def chain(words: list[str]) -> None:
    with session("cpu") as world:
        for word in words:
            train(word, world)


if __name__ == "__main__":
    words = sys.argv[1:]
    guarded(lambda: train(words[0]) if len(words) == 1 else chain(words))
