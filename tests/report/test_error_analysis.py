from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.error_analysis import error_analysis
from slm.report.gather import Run, finished_artifacts, gather
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus

Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def run(recipe: Recipe, make_run: Make, tmp_path: Path) -> Run:
    make_run(recipe)
    found = gather(recipe, finished_artifacts(recipe))
    evaluation = publish(tmp_path, publish_corpus(tmp_path / "corpus"), document_rows(0.4, 1), item_rows(0.5, 1))
    return replace(found, artifacts={**found.artifacts, "evaluate": evaluation})


def test_parts_are_drawn_and_told_and_the_worst_texts_shown(run: Run) -> None:
    section = error_analysis(run)
    (figure,) = section.figures
    assert "source: prose" in figure.svg
    assert "bits per byte" in figure.svg
    documents, quiz = section.tables
    assert documents.folded
    assert {row[0].split(":")[0] for row in documents.rows} == {"all", "source", "bytes", "share of rare tokens"}
    assert {row[0].split(":")[0] for row in quiz.rows} >= {"language", "contamination", "prompt tokens"}
    texts, items = section.samples
    assert len(texts) == len(items) == 3
    assert texts[0].text.startswith("Text of ")
    assert items[0].label.startswith("quiz: acc 0 · quiz/")
    assert items[0].prompt.startswith("Question ")
    assert "* " in items[0].text  # the right choice among what the model thinks of each


def test_an_evaluation_of_another_layout_is_told_and_none_named(run: Run, recipe: Recipe, make_run: Make) -> None:
    other = recipe.model_copy(update={"run": "old"})
    old = gather(other, {**make_run(other, "evaluate")})  # type: ignore[arg-type]
    section = error_analysis(old)
    assert "evaluate again with redo=true" in section.notices[0]
    bare = {name: one for name, one in run.artifacts.items() if name != "evaluate"}
    assert error_analysis(replace(run, artifacts=bare)).missing == "slm evaluate run=synthetic"
