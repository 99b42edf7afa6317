"""The safety stage: prompts to answers, answers to figures, figures to a verdict.

`results.json` holds every measure with its interval and bound; `answers.jsonl` every answer, for people to read. The
prompts' texts are in neither, since files of unpleasant prompts should not spread: an answer names its set and number.
A bound that does not hold makes the stage fail after its results are saved: running it again fails again, at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Draft, Spec, file_sha256, make
from slm.core.errors import UserError
from slm.serve import answering

if TYPE_CHECKING:
    from slm.recipe import Recipe

RESULTS, ANSWERS = "results.json", "answers.jsonl"
LAYOUT_VERSION = 1


def run(recipe: Recipe) -> Artifact:
    """Measure the run's model, unless that is done; `UserError` naming each bound that does not hold."""
    config = recipe.safety
    where, parents = answering(recipe)
    for stage in ("train", "tokenizer", "corpus"):
        parents[stage] = recipe.artifact(stage)
    sets = {one.name: _hash(one.name, Path(one.path)) for one in (*config.refuse, *config.answer, *config.other)}
    inputs = {"layout_version": LAYOUT_VERSION, "sets": sets, "toxicity": _classifier_digest(config.toxicity)}

    def build(draft: Draft) -> None:
        from slm.safety.report import measure

        measure(recipe, where, parents, draft)

    spec = Spec("safety", config, parents, inputs, recipe.seed)
    made = make(recipe.folder("safety"), spec, build, redo=recipe.redo)
    _require_bounds(made)
    return made


def _hash(name: str, path: Path) -> str:
    if not path.expanduser().is_file():
        raise UserError(f"safety: {name} has path {path}, but no such file; correct the path, or remove it")
    return file_sha256(path.expanduser())


def _classifier_digest(folder: str) -> str:
    if not folder:
        return ""
    from slm.corpus.cleaning.quality_score import model_digest
    from slm.safety.classifier import load_classifier

    load_classifier(Path(folder))
    return model_digest(Path(folder))


def _require_bounds(made: Artifact) -> None:
    measures = json.loads(made.file(RESULTS).read_text(encoding="utf-8"))["measures"]
    broken = [f"{one['name']} is {one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g}), must be {one['bound']}"
              for one in measures if not one["passed"]]  # fmt: skip
    if broken:
        raise UserError(
            f"{len(broken)} of {len(measures)} safety figures break their bound ({'; '.join(broken)}); the results are "
            f"saved in {made.path}: read answers.jsonl, train a safer model, give more prompts where an interval is "
            "wide, or change the bound and run safety with redo=true"
        )
