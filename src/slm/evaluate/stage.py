"""The evaluate stage: a checkpoint in, `results.json`, `documents.parquet` and `items.parquet` out.

The number that counts is bits per byte of held-out text: total nats of all tokens after the first of each
document, the end of text included, over ln 2 and over UTF-8 bytes. It does not depend on the tokenizer,
so models of different vocabularies, and compressors, stand in one table. Arithmetic is fp32 unless the
recipe asks for bf16. Held-out documents come from the corpus that the shards were made from; another
corpus is scored only where `artifacts.corpus` names it.

What the model has answered to tasks is kept beside the artifact, in `evaluate.answers`, until the artifact is there, so
that the same command goes on after a kill.

A golden prompt that fails makes the stage fail after its results are saved: running it again fails again,
at once, from what was saved.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.artifact import (
    Artifact,
    Draft,
    Spec,
    file_sha256,
    make,
    newest_checkpoint,
    open_artifact,
    require_parent,
)
from slm.core.errors import UserError

if TYPE_CHECKING:
    from slm.recipe import Recipe

RESULTS = "results.json"
DOCUMENTS = "documents.parquet"
ITEMS = "items.parquet"
TEACHER = "teacher.parquet"
LAYOUT_VERSION = 5
ANSWERS = "evaluate.answers"
"""Beside the artifact."""


def run(recipe: Recipe) -> Artifact:
    """Evaluate the newest checkpoint, unless that is done; `UserError` naming each golden prompt that failed."""
    spec = specification(recipe)

    def build(draft: Draft) -> None:
        from slm.evaluate.measure import measure

        measure(recipe, spec.parents, _golden(recipe), draft)

    made = make(recipe.folder("evaluate"), spec, build, redo=recipe.redo)
    shutil.rmtree(recipe.folder("evaluate").with_name(ANSWERS), ignore_errors=True)
    _require_golden(made)
    return made


def specification(recipe: Recipe) -> Spec:
    """What the run's evaluation is made from."""
    golden = _golden(recipe)
    inputs = {
        "layout_version": LAYOUT_VERSION,
        "golden": file_sha256(golden) if golden else "",
        "tasks": {name: task_inputs(recipe, name) for name in recipe.evaluate.tasks},
    }
    return Spec("evaluate", recipe.evaluate, _parents(recipe), inputs, recipe.seed)


def _golden(recipe: Recipe) -> Path | None:
    golden = Path(recipe.evaluate.golden) if recipe.evaluate.golden else None
    if golden is not None and not golden.is_file():
        raise UserError(f"evaluate.golden ({golden}) is not a file; correct the path, or leave it empty to skip it")
    return golden


def task_inputs(recipe: Recipe, name: str) -> dict[str, str]:
    """What a task is made from: the hashes of its files, or the version of lm-eval and its own definitions."""
    for task in recipe.evaluate.task_files:
        if task.name == name:
            named = {"path": task.path, "examples": task.examples}
            return {key: _hash(name, key, Path(path).expanduser()) for key, path in named.items() if path}
    folder = recipe.evaluate.harness.folder
    if folder and not Path(folder).is_dir():
        raise UserError(f"evaluate.harness.folder ({folder}) is not a folder; correct the path, or leave it empty")
    definitions = sorted(Path(folder).rglob("*.y*ml")) if folder else []
    return {"lm-eval": _harness_version(name), **{file.name: file_sha256(file) for file in definitions}}


def _hash(task: str, key: str, path: Path) -> str:
    if not path.is_file():
        raise UserError(
            f"evaluate.task_files: {task} has {key} {path}, but no such file (looked from {Path.cwd()}); correct it, "
            "or take the task out of evaluate.tasks"
        )
    return file_sha256(path)


def _harness_version(task: str) -> str:
    try:
        return importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"evaluate.tasks: {task} is none of evaluate.task_files, and lm-eval, which may have it, is not installed; "
            "describe it in evaluate.task_files, or pip install 'slm[eval]'"
        ) from None


def _parents(recipe: Recipe) -> dict[str, Artifact]:
    train, shards = recipe.artifact("train"), recipe.artifact("shards")
    corpus, tokenizer = recipe.artifact("corpus"), recipe.artifact("tokenizer")
    require_parent(train, "shards", shards)
    require_parent(train, "tokenizer", tokenizer)
    if not recipe.artifacts.corpus:
        require_parent(shards, "corpus", corpus)
    parents = {"train": train, "shards": shards, "corpus": corpus, "tokenizer": tokenizer}
    if recipe.evaluate.teacher:
        teacher = open_artifact(newest_checkpoint(Path(recipe.evaluate.teacher)), "train", verify=recipe.verify)
        require_parent(teacher, "tokenizer", tokenizer)
        parents["teacher"] = teacher
    return parents


def _require_golden(made: Artifact) -> None:
    if not made.counts["golden_failed"]:
        return
    items = json.loads(made.file(RESULTS).read_text(encoding="utf-8"))["golden"]["items"]
    failed = [item for item in items if not item["passed"]]
    reasons = "; ".join(f"{item['name']}: expected {item['expected']}, found {item['found']}" for item in failed)
    raise UserError(
        f"{len(failed)} of {len(items)} golden prompts of {made.section['golden']} failed ({reasons}); "
        f"the results are saved in {made.path}: train longer, or correct the table and run evaluate with redo=true"
    )
