"""`slm lr_range recipe=NAME`: which learning rates train this recipe, from one short sweep.

In: the recipe and its shards. Out, in `<run>/lr_range`: `points.csv`, `lr_range.json` and `lr_range.png`, and a
table with two suggestions. The model that the run would begin with is trained for `steps` steps of the recipe while
the learning rate grows exponentially from `lowest` to `highest` (Smith, arXiv 1506.01186); the sweep ends early where
the loss is not finite or above `DIVERGED` times the first. The loss falls steepest at a rate that is safe to train
with; at the rate of the lowest loss the next ones already undo what was learned, so it is the most to try.

Muon's and AdamW's rates keep the recipe's ratio; the rate shown is Muon's where it updates the matrices, else
AdamW's. Clipping, parametrization and precision are the recipe's (bf16_weights as bf16); schedule, guard, average
and dropout are left out, and so is the run: its checkpoints and metrics are neither read nor written. The smoke
recipe's 100 steps took 12 s on a busy core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from slm.compose import command
from slm.core.artifact import write_atomically
from slm.core.batch import Batch
from slm.core.console import Progress, say, table
from slm.core.errors import UserError
from slm.model.transformer import Transformer
from slm.objective import build as build_objective
from slm.objective.loss import Objective
from slm.recipe import Recipe
from slm.report.png import Line, Panel, draw
from slm.shards.loader import Loader
from slm.train import specification
from slm.train.initial import starting_model
from slm.train.loop import peak_lr
from slm.train.micro_batch import choose_micro_batch
from slm.train.optim import Optimizer
from slm.train.parallel import Parallel
from slm.train.plan import plan
from slm.train.precision import Precision, autocast, prepare_device

SHORTCUTS = {name: f"train.lr_range.{name}" for name in ("lowest", "highest", "steps")}
DIVERGED = 1.25
SHOWN_ROWS = 16


@dataclass(frozen=True, slots=True)
class Point:
    """The loss after all earlier rates, before the update with this one."""

    lr: float
    loss: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a sweep says."""

    steepest: float
    """Where the smoothed loss falls most per factor of the rate."""
    largest: float
    """Where the smoothed loss is lowest: from there on it only rises."""
    diverged: float | None
    """Where the sweep had to end; None where it came to its highest rate."""


def run(recipe: Recipe) -> None:
    """Sweep, write, suggest."""
    points = list(sweep(recipe))
    diverged = points[-1].lr if has_diverged(points) else None
    found = suggest(points, diverged)
    folder = Path(recipe.runs_dir) / recipe.run / "lr_range"
    folder.mkdir(parents=True, exist_ok=True)
    losses = smoothed(points)
    rows = [(point.lr, point.loss, loss) for point, loss in zip(points, losses, strict=True)]
    lines = ["lr,loss,smoothed_loss", *(f"{lr:.8g},{loss:.8g},{mean:.8g}" for lr, loss, mean in rows)]
    write_atomically(folder / "points.csv", "\n".join(lines) + "\n")
    content = {**asdict(found), "settings": settings(recipe, found.steepest), "steps": len(points)}
    write_atomically(folder / "lr_range.json", json.dumps(content, indent=1) + "\n")
    picture(folder / "lr_range.png", recipe, points, losses, found)
    stride = -(-len(rows) // SHOWN_ROWS)
    table("Learning rate", ("lr", "loss", "smoothed"), [tuple(f"{x:.4g}" for x in row) for row in rows[::stride]])
    end = f"diverged at {diverged:.3g}" if diverged else f"no divergence up to {points[-1].lr:.3g}: raise highest="
    say(f"lr_range: steepest fall at {found.steepest:.3g}, lowest loss at {found.largest:.3g}, {end}")
    for key, value in settings(recipe, found.steepest).items():
        say(f"lr_range: try {key}={value:.2g}")
    say(f"lr_range: wrote {folder}")


def sweep(recipe: Recipe) -> Iterator[Point]:
    """Train the model that the run begins with at growing rates until it diverges; one point a step."""
    config, facts, lr_range = recipe.train, plan(recipe), recipe.train.lr_range
    device, precision = prepare_device(config)
    spec = specification(recipe)
    model = starting_model(recipe, spec).to(device)
    objective = build_objective(recipe.objective)
    micro = choose_micro_batch(recipe, facts.batch_rows, model, objective, device, precision, None, Parallel())
    sizes = {"batch_rows": facts.batch_rows, "micro_batch_rows": micro}
    shards, store = spec.parents["shards"], spec.parents.get("distill")
    loader = Loader(shards, seed=recipe.seed, store=store, sources=config.sources, **sizes)
    optimizer = Optimizer(model, config.optimizer, recipe.model)
    growth = (lr_range.highest / lr_range.lowest) ** (1 / (lr_range.steps - 1))
    made: list[Point] = []
    with Progress("lr_range", lr_range.steps, "steps") as progress:
        for step in range(lr_range.steps):
            lr = lr_range.lowest * growth**step
            batches = [batch.to(device) for batch in loader.step()]
            loss = gradients(model, objective, batches, device, precision)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
            made.append(Point(lr, loss if norm.isfinite() else math.inf))
            yield made[-1]
            if has_diverged(made):
                return
            optimizer.step(lr / peak_lr(recipe))
            progress.advance()


def gradients(
    model: Transformer, objective: Objective, batches: list[Batch], device: str, precision: Precision
) -> float:
    """Leave the gradients of the mean loss over a step in the model; returns that loss in nats per token."""
    tokens, nats = sum(batch.divisor for batch in batches), 0.0
    for batch in batches:
        with autocast(device, precision):
            loss = objective(model, batch)
        (loss.nats_sum / tokens).backward()  # type: ignore[no-untyped-call]
        nats += float(loss.cross_entropy_sum)
    return nats / tokens


def has_diverged(points: list[Point]) -> bool:
    """Whether the last loss is not finite, or all that the fresh model knew is lost and more."""
    return not math.isfinite(points[-1].loss) or points[-1].loss > DIVERGED * points[0].loss


def smoothed(points: list[Point]) -> list[float]:
    """Means over a twentieth of the points around each, fewer at the ends, so that nothing is shifted."""
    reach, losses = max(1, len(points) // 40), [point.loss for point in points]
    windows = []
    for at in range(len(losses)):
        around = min(reach, at, len(losses) - 1 - at)
        windows.append(losses[at - around : at + around + 1])
    return [sum(window) / len(window) for window in windows]


def suggest(points: list[Point], diverged: float | None) -> Suggestion:
    """Where the loss falls steepest and where it is lowest; `UserError` where it never falls."""
    losses, reach = smoothed(points), max(1, len(points) // 40)
    lowest = min(range(len(losses)), key=losses.__getitem__)
    falls = {at: losses[at - reach] - losses[at + reach] for at in range(reach, lowest - reach + 1)}
    steepest = max(falls, key=falls.__getitem__, default=None)
    if steepest is None or falls[steepest] <= 0:
        raise UserError(
            f"train.lr_range.lowest ({points[0].lr:g}) is too high to begin with: the loss never falls up to "
            f"{points[-1].lr:.3g}; lower it, or raise steps for a smoother curve"
        )
    return Suggestion(points[steepest].lr, points[lowest].lr, diverged)


def settings(recipe: Recipe, lr: float) -> dict[str, float]:
    """The recipe's learning rates when the shown one is `lr`."""
    optimizer, share = recipe.train.optimizer, lr / peak_lr(recipe)
    rates = {"train.optimizer.lr": optimizer.lr * share}
    if optimizer.kind == "muon":
        rates["train.optimizer.muon_lr"] = optimizer.muon_lr * share
    return rates


def picture(path: Path, recipe: Recipe, points: list[Point], losses: list[float], found: Suggestion) -> None:
    """Loss against learning rate, with the suggestions."""
    known = [(point.lr, point.loss, loss) for point, loss in zip(points, losses, strict=True) if math.isfinite(loss)]
    rates, raw, means = ([row[column] for row in known] for column in range(3))
    marks = [(found.steepest, f"steepest {found.steepest:.2g}"), (found.largest, f"lowest {found.largest:.2g}")]
    margin = 0.1 * (points[0].loss - min(means))
    panel = Panel(
        f"{recipe.run}: loss while the learning rate grows",
        "Muon's learning rate" if recipe.train.optimizer.kind == "muon" else "learning rate",
        "nats per token",
        [Line(rates, raw, faint=True), Line(rates, means)],
        y_range=(min(means) - margin, points[0].loss + 2 * margin),
        marks=marks,
    )
    draw(path, [[panel]])


def main() -> None:
    """Sweep the recipe's learning rate."""
    command("lr_range", run, SHORTCUTS)


if __name__ == "__main__":
    main()
