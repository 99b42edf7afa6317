"""A real model asked in other ways: answers come back to the choices of the item itself."""

from __future__ import annotations

import json

import pytest

import slm.evaluate
from slm.core.errors import ProblemsError
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.robustness import variants
from slm.evaluate.tasks.run import plan_tasks
from slm.evaluate.tasks.variation import robustness

ROWS = [
    {"query": f"def {word}", "choices": ["self", "None", "in"], "gold": number % 3}
    for number, word in enumerate(["return", "class", "for", "yield"])
]


def settings(task, rows=ROWS, **more):
    config = task("query", rows)
    return {"task_files": [config.model_dump()], "tasks": ["made"], "max_documents": 2, "robustness": ["made"], **more}


def test_every_variant_is_answered_by_the_items_own_choices(task, scorer):
    tasks = plan_tasks(EvaluateConfig(**settings(task)), None)
    found = robustness(tasks, scorer, 0)["made"]
    assert (found["items"], found["left_out"]) == (4, {"format": 0, "order": 0})
    by_kind = {one["kind"]: one for one in found["spreads"]}
    assert list(by_kind["format"]["accuracies"]) == ["as it is", "answer on a line of its own"]
    assert list(by_kind["order"]["accuracies"]) == [f"first choice at {letter}" for letter in "ACB"]
    right = 0
    for row in ROWS:
        way = next(one for one in variants(f"def {row['query'][4:]}", [f" {c}" for c in row["choices"]], row["gold"])
                   if one.name == "first choice at C")  # fmt: skip
        pairs = [scorer.pair(way.prompt, choice) for choice in way.choices]
        logprobs = [one.logprob for one in scorer.likelihoods(pairs, "test")]
        right += logprobs.index(max(logprobs)) == way.gold
    assert by_kind["order"]["accuracies"]["first choice at C"]["value"] == pytest.approx(right / 4)


def test_items_of_which_a_variant_is_too_long_are_left_out_and_counted(task, scorer):
    long = {"query": "é" * 58, "choices": ["self", "None", "in"], "gold": 0}
    found = robustness(plan_tasks(EvaluateConfig(**settings(task, [*ROWS, long])), None), scorer, 0)["made"]
    assert (found["items"], found["left_out"]["order"]) == (5, 1)
    orders = next(one for one in found["spreads"] if one["kind"] == "order")
    assert orders["agreeing"]["items"] == 4


def test_the_spread_is_printed_and_in_the_results(on_trained, task, capsys):
    made = slm.evaluate.run(on_trained("variation", evaluate=settings(task)))
    results = json.loads(made.file("results.json").read_text())
    assert [one["kind"] for one in results["robustness"]["made"]["spreads"]] == ["format", "order"]
    said = capsys.readouterr().out
    assert "Accuracy over variants that change nothing" in said


def test_a_task_that_has_no_choices_or_is_not_run_is_refused(make_recipe, task):
    wrong = settings(task) | {"robustness": ["other"]}
    with pytest.raises(ProblemsError, match="robustness: other must be a multiple-choice task of task_files that task"):
        make_recipe("wrong", evaluate=wrong)
