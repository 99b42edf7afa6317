"""Tasks at each evaluation: the same figures as the evaluate stage's, known mistakes before the first step."""

from __future__ import annotations

import json

import pytest

import slm.train
from slm.core.errors import ProblemsError, UserError
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.items import read
from slm.model.load import load_model
from slm.recipe import build_recipe
from slm.tokenizer import Tokenizer
from slm.train.metrics import read_metrics

ROWS = [{"query": f"def {n}", "choices": ["a", "bb", "c"], "gold": n % 3} for n in range(9)]


@pytest.fixture
def with_tasks(make_recipe, tmp_path):
    """Recipes that name a file of choices and one of lines."""
    (tmp_path / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "text.txt").write_text("def a\nreturn b\n")
    files = [
        {"name": "mine", "layout": "query", "path": str(tmp_path / "choice.jsonl")},
        {"name": "lines", "layout": "text", "path": str(tmp_path / "text.txt")},
    ]

    def recipe(run, **train):
        values = make_recipe(run).model_dump(mode="json")
        values["evaluate"]["task_files"] = files
        values["train"].update(train)
        return build_recipe(values)

    return recipe


def test_figures_are_in_the_metrics_and_change_no_step(with_tasks):
    recipe = with_tasks("tasks", tasks=("mine", "lines"), task_items=6)
    plain = slm.train.run(with_tasks("no_tasks"))
    made = slm.train.run(recipe)
    assert (
        made.manifest["files"]["model-00001-of-00001.safetensors"]
        == plain.manifest["files"]["model-00001-of-00001.safetensors"]
    )
    rows = [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == "tasks"]
    assert len(rows) > 1
    assert rows[-1].keys() - {"kind", "step", "tokens"} == {"mine acc", "mine acc_bytes", "lines bits_per_byte"}
    scorer = Scorer(load_model(made.path), Tokenizer.load(recipe.folder("tokenizer")), 64)
    task = recipe.evaluate.task_files[0].model_copy(update={"max_items": 6})
    found = [one.value for one in run_choice(scorer, task, read(task, None), "").results if one.metric == "acc"]
    assert len(found) == 6
    assert rows[-1]["mine acc"] == pytest.approx(sum(found) / 6)


def test_mistakes_are_found_before_the_first_step(with_tasks, tmp_path):
    with pytest.raises(ProblemsError, match=r"train.tasks \(other\) must name one of evaluate.task_files .*\(mine, l"):
        with_tasks("none", tasks=("other",))
    (tmp_path / "choice.jsonl").write_text('{"query": "q", "choices": ["a"], "gold": 1}')
    with pytest.raises(UserError, match=r"choice.jsonl:1: gold \(1\) is none of the 1 choices"):
        slm.train.run(with_tasks("mistaken", tasks=("mine",)))


def test_an_evaluation_that_fails_does_not_end_the_training(with_tasks, monkeypatch):
    monkeypatch.setattr("slm.train.tasks.run_choice", lambda *_: 1 / 0)
    recipe = with_tasks("failing", tasks=("mine",), evaluate_every_steps=0)
    assert slm.train.run(recipe).counts["finished"]
    rows = read_metrics(recipe.folder("train") / "metrics.jsonl")
    assert [row["reason"] for row in rows if row["kind"] == "evaluate_failed"] == [
        "ZeroDivisionError: division by zero"
    ]
