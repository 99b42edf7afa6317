from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.recipe import Recipe
from slm.report.gather import finished_artifacts, gather, inputs, metrics_file
from tests.evaluate.planted import document_rows, publish, publish_corpus

Make = Callable[..., dict[str, Artifact]]


def test_what_is_there_is_read_and_the_rest_is_empty(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, "evaluate")
    artifacts = finished_artifacts(recipe)
    assert list(artifacts) == ["corpus", "tokenizer", "shards", "train", "evaluate"]
    run = gather(recipe, artifacts)
    assert (len(run.steps), len(run.evaluations), len(run.samples)) == (600, 12, 24)
    assert run.results["baselines"]["gzip_bits_per_byte"] == 2.121
    assert run.tokenizer["vocabulary"]["size"] == 2048
    assert run.parity == run.answers == {}
    assert run.stale == {}
    assert run.broken_links == ()


def test_a_vocabulary_of_another_text_is_out_of_date_unless_the_recipe_takes_it_from_there(
    recipe: Recipe, make_run: Make, tmp_path: Path
) -> None:
    artifacts = make_run(recipe)
    other = publish_corpus(tmp_path / "other")
    mixed = {**artifacts, "corpus": other}
    assert gather(recipe, mixed).stale["tokenizer"] == "corpus"
    paths = recipe.artifacts.model_copy(update={"tokenizer": str(artifacts["tokenizer"].path)})
    taken = gather(recipe.model_copy(update={"artifacts": paths}), mixed)
    assert "tokenizer" not in taken.stale
    assert taken.stale["shards"] == "corpus"


def test_a_damaged_artifact_is_refused_not_left_out(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe, "evaluate")
    made["evaluate"].file("results.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"results.json is damaged"):
        finished_artifacts(recipe)


def test_a_last_line_that_a_kill_cut_off_is_left_out_and_another_is_refused(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    file = recipe.folder("train") / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"kind": "train", "st')
    assert len(gather(recipe, finished_artifacts(recipe)).steps) == 600
    file.write_text("nonsense\n" + whole)
    with pytest.raises(UserError, match=r"metrics.jsonl:1 is not JSON .*; delete that line"):
        gather(recipe, finished_artifacts(recipe))


def test_steps_that_a_rewind_took_back_are_left_out(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    file = metrics_file(recipe)
    before = gather(recipe, finished_artifacts(recipe)).steps
    back = {"kind": "rewind", "step": before[-1]["step"], "tokens": 0, "to_step": before[-3]["step"]}
    again = {**before[-2], "rewinds": 1}
    file.write_text(file.read_text() + json.dumps(back) + "\n" + json.dumps(again) + "\n")
    assert gather(recipe, finished_artifacts(recipe)).steps == [*before[:-2], again]


def test_inputs_change_with_the_metrics_and_the_recipe_but_not_with_how_it_is_run(
    recipe: Recipe, make_run: Make
) -> None:
    make_run(recipe)
    before = inputs(recipe)
    assert inputs(recipe.model_copy(update={"redo": True, "verify": "full", "start": "train"})) == before
    assert inputs(recipe.model_copy(update={"seed": 3})) != before
    with metrics_file(recipe).open("a") as stream:
        stream.write(json.dumps({"kind": "train"}) + "\n")
    assert inputs(recipe) != before


def test_metrics_are_found_beside_a_checkpoint_that_the_recipe_names(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe)
    paths = recipe.artifacts.model_copy(update={"train": str(made["train"].path)})
    named = recipe.model_copy(update={"artifacts": paths})
    assert metrics_file(named).resolve() == metrics_file(recipe).resolve()
    assert metrics_file(recipe).is_file()


def test_an_ancestor_that_is_gone_is_told(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe)
    made["corpus"].path.rename(made["corpus"].path.with_name("elsewhere"))
    run = gather(recipe, finished_artifacts(recipe))
    assert "corpus" not in run.artifacts
    assert len(run.broken_links) == 1
    assert "not there" in run.broken_links[0]


def test_troubles_are_kept_also_of_what_a_rewind_took_back(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    rows = [
        {"kind": "skip", "step": 590, "tokens": 5, "reason": "spike"},
        {"kind": "evaluate_failed", "step": 595, "tokens": 5, "reason": "out of memory"},
        {"kind": "rewind", "step": 600, "tokens": 5, "to_step": 100},
    ]
    with metrics_file(recipe).open("a", encoding="utf-8") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    run = gather(recipe, finished_artifacts(recipe))
    assert run.troubles == rows
    assert max(row["step"] for row in run.steps) == 100
    assert all("loss" in row for row in run.evaluations)
    assert [line["step"] for line in run.ledger] == [200, 410, 600]


def test_safety_is_read_where_it_was_measured_although_it_comes_after_the_report(
    recipe: Recipe, make_run: Make
) -> None:
    make_run(recipe, "compress", "safety")
    artifacts = finished_artifacts(recipe)
    assert list(artifacts)[-2:] == ["compress", "safety"]
    assert gather(recipe, artifacts).safety["answers"] == 60


def test_another_run_that_is_compared_counts_as_what_the_report_is_made_from(
    recipe: Recipe, make_run: Make, tmp_path: Path
) -> None:
    make_run(recipe)
    corpus = publish_corpus(tmp_path / "corpus")
    for name, seed in (("one", 1), ("two", 2)):
        publish(tmp_path / name, corpus, document_rows(0.0, seed))
    publish(recipe.folder("evaluate").parent, corpus, document_rows(0.2, 3))

    def beside(name: str) -> Recipe:
        report = recipe.report.model_copy(update={"compare_with": str(tmp_path / name)})
        return recipe.model_copy(update={"report": report})

    assert inputs(beside("one")) != inputs(beside("two"))
    assert inputs(beside("one")) != inputs(recipe)
    run = gather(beside("one"), finished_artifacts(beside("one")))
    assert run.beside_name == "one"
    assert run.beside is not None
    assert run.beside.findings[0].verdict == "A is better"  # this run is B and has more bits per byte
    with pytest.raises(UserError, match="holds no evaluation"):
        inputs(beside("nowhere"))
    assert gather(recipe, finished_artifacts(recipe)).beside is None
