"""Tasks as a part of the stage: figures, resuming, clean items, and mistakes found before any work."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

import slm.corpus
import slm.evaluate
from slm.core.errors import UserError
from slm.evaluate.likelihood import likelihoods
from slm.evaluate.tasks.items_table import summaries
from slm.evaluate.tasks.run import plan_tasks, run_tasks

ROWS = [
    {"query": f"def {word}", "choices": ["self", "None", "in"], "gold": number % 3}
    for number, word in enumerate(["return", "class", "for", "yield", "é", "range"])
]


def settings(task, **more):
    config = task("query", ROWS)
    return {"task_files": [config.model_dump()], "tasks": ["made"], "max_documents": 2, **more}


def test_figures_and_items_are_in_the_artifact(on_trained, task, capsys):
    made = slm.evaluate.run(on_trained("tasks", evaluate=settings(task)))
    results = json.loads(made.file("results.json").read_text())["tasks"]
    rows = pq.read_table(made.file("items.parquet")).to_pylist()
    assert len(rows) == 12
    for figures in results["metrics"]:
        values = [row["value"] for row in rows if row["metric"] == figures["metric"]]
        assert figures["value"] == sum(values) / 6
        assert (figures["items"], figures["chance"], figures["unchecked_items"]) == (6, pytest.approx(1 / 3), 6)
    assert made.counts["tasks"] == results
    said = capsys.readouterr().out
    assert "acc_bytes" in said
    assert "not checked" in said
    assert not made.path.with_name("evaluate.answers").exists()


def test_an_evaluation_that_dies_goes_on_from_what_it_has(on_trained, task, monkeypatch, capsys):
    recipe = on_trained("dying", evaluate=settings(task, batch_tokens=1))
    whole = slm.evaluate.run(on_trained("living", evaluate=settings(task, batch_tokens=1)))
    asked: list[int] = []
    real = likelihoods

    def dies(model, requests, **more):
        asked.append(len(requests))
        for number, batch in enumerate(real(model, requests, **more)):
            yield batch
            if number == 1 and len(asked) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr("slm.evaluate.scorer.likelihoods", dies)
    with pytest.raises(KeyboardInterrupt):
        slm.evaluate.run(recipe)
    assert not recipe.folder("evaluate").exists()
    monkeypatch.setattr("slm.evaluate.measure.score", lambda *_, **__: pytest.fail("documents were scored again"))
    made = slm.evaluate.run(recipe)
    assert asked[0] == 18
    assert 0 < asked[1] < 18
    assert "going on from" in capsys.readouterr().out
    rows, expected = (pq.read_table(one.file("items.parquet")).to_pylist() for one in (made, whole))
    for row, other in zip(rows, expected, strict=True):
        assert row.pop("choice_logprobs") == pytest.approx(other.pop("choice_logprobs"), abs=1e-5)
        assert row == other


def test_changed_files_make_another_evaluation(on_trained, task, tmp_path):
    given = settings(task)
    recipe = on_trained("changing", evaluate=given)
    slm.evaluate.run(recipe)
    (tmp_path / "made.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(UserError, match=r"inputs\.tasks\.made\.path"):
        slm.evaluate.run(recipe)


def test_mistakes_are_found_before_any_work(on_trained, task, tmp_path, monkeypatch):
    monkeypatch.setattr("slm.evaluate.measure.load_model", lambda *_: pytest.fail("work began"))
    given = settings(task)
    (tmp_path / "made.jsonl").write_text('{"query": "q", "choices": ["a"], "gold": 1}')
    with pytest.raises(UserError, match=r"made.jsonl:1: gold \(1\) is none of the 1 choices"):
        slm.evaluate.run(on_trained("mistaken", evaluate=given))
    (tmp_path / "made.jsonl").unlink()
    with pytest.raises(UserError, match=r"evaluate.task_files: made has path .*made.jsonl, but no such file"):
        slm.evaluate.run(on_trained("mistaken", evaluate=given))


def test_full_and_clean_figures_stand_side_by_side(on_trained, make_recipe, task, tmp_path, capsys):
    words = ["def", "return", "self", "import", "None", "for", "in", "range", "yield"]
    prompts = [" ".join(words[number:] + words[:number]) for number in range(4)]
    config = task("query", [{"query": one, "choices": ["a", "b"], "gold": 0} for one in prompts])
    source = tmp_path / "source.jsonl"
    source.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [prompts[1], *(f"é {n}" for n in range(40))])
    )
    other = make_recipe(
        "held",
        corpus={
            "sources": [{"kind": "jsonl", "path": str(source), "licence": "CC0-1.0", "origin": "made up"}],
            "validation_fraction": 0.4,
            "decontamination": {
                "against": [{"name": "made", "path": config.path, "fields": ["query"]}],
                "ngram_words": 9,
                "min_words": 8,
            },
        },
    )
    slm.corpus.run(other)
    recipe = on_trained("clean", evaluate={"task_files": [config.model_dump()], "tasks": ["made"], "max_documents": 2})
    taken = recipe.artifacts.model_copy(update={"corpus": str(other.folder("corpus"))})
    made = slm.evaluate.run(recipe.model_copy(update={"artifacts": taken}))
    rows = [row for row in pq.read_table(made.file("items.parquet")).to_pylist() if row["metric"] == "acc"]
    assert [row["clean"] for row in rows] == [True, False, True, True]
    (figures,) = [one for one in made.counts["tasks"]["metrics"] if one["metric"] == "acc"]
    assert (figures["clean_items"], figures["contaminated_items"], figures["unchecked_items"]) == (3, 1, 0)
    assert figures["clean_value"] == pytest.approx(sum(row["value"] for row in rows if row["clean"]) / 3)
    assert "value on clean" in capsys.readouterr().out


def test_figures_over_clean_items_follow_the_table(task, scorer, tmp_path):
    from slm.evaluate.config import EvaluateConfig

    planned = plan_tasks(EvaluateConfig(**settings(task)), None)
    found = run_tasks(planned, scorer, (), tmp_path, 0, {})
    assert [one["metric"] for one in found["metrics"]] == ["acc", "acc_bytes"]
    assert found["skipped"] == {}
    assert summaries([], 0) == []


def test_controls_are_asked_the_same_items_and_stand_beside(on_trained, task, capsys):
    given = settings(task, controls=["random", "unigram"])
    made = slm.evaluate.run(on_trained("controlled", evaluate=given))
    rows = pq.read_table(made.file("items.parquet")).to_pylist()
    assert all(row["random_value"] in (0, 1) and row["unigram_value"] in (0, 1) for row in rows)
    found = json.loads(made.file("results.json").read_text())["tasks"]["controls"]
    assert [(one["metric"], one["control"], one["items"]) for one in found] == [
        (metric, control, 6) for metric in ("acc", "acc_bytes") for control in ("random", "unigram")
    ]
    for one in found:
        mine = [row for row in rows if row["metric"] == one["metric"]]
        theirs = [row[f"{one['control']}_value"] for row in mine]
        assert one["value"] == pytest.approx(sum(theirs) / 6)
        assert one["difference"] == pytest.approx(sum(row["value"] for row in mine) / 6 - sum(theirs) / 6)
    assert "Beside models that know nothing" in capsys.readouterr().out


def test_a_control_that_dies_goes_on_from_what_it_has(on_trained, task, monkeypatch, capsys):
    recipe = on_trained("control_dying", evaluate=settings(task, controls=["random"], batch_tokens=1))
    whole = slm.evaluate.run(on_trained("control_living", evaluate=settings(task, controls=["random"], batch_tokens=1)))
    real, asked = likelihoods, []

    def dies(model, requests, **more):
        asked.append(len(requests))
        for number, batch in enumerate(real(model, requests, **more)):
            yield batch
            if number == 1 and len(asked) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr("slm.evaluate.likelihood.ROW_TOKENS", 16)
    monkeypatch.setattr("slm.evaluate.scorer.likelihoods", dies)
    with pytest.raises(KeyboardInterrupt):
        slm.evaluate.run(recipe)
    made = slm.evaluate.run(recipe)
    assert asked[:2] == [18, 18]  # the model's, then the control's, which died
    assert len(asked) == 3
    assert 0 < asked[2] < 18
    assert "random control: going on from" in capsys.readouterr().out
    values = [
        [row["random_value"] for row in pq.read_table(one.file("items.parquet")).to_pylist()] for one in (made, whole)
    ]
    assert values[0] == values[1]


def test_a_judge_is_not_asked_about_controls(task, scorer, tmp_path, monkeypatch):
    from slm.evaluate.config import EvaluateConfig

    open_questions = task("mt_bench", [{"question_id": 1, "category": "c", "turns": ["def"]}], name="open")
    config = EvaluateConfig(task_files=(open_questions,), tasks=("open",), controls=("random",),
                            judge={"url": "http://nowhere/v1", "model": "m"})  # fmt: skip
    asked = []

    def rated(_scorer, talks, *_):
        asked.append(len(talks))
        return [3.0] * len(talks)

    monkeypatch.setattr("slm.evaluate.tasks.judge.verdicts", rated)
    found = run_tasks(plan_tasks(config, None), scorer, [("random", scorer)], tmp_path, 0, {})
    assert asked == [1]
    assert found["controls"] == []
    assert "verdicts on noise" in found["notes"]["open"]["controls"]
