"""Variants: other settings over the same rows, made once, under several seeds."""

from __future__ import annotations

import pytest

from slm import ablation
from slm.core.errors import ProblemsError, UserError
from slm.sweep import variants
from slm.sweep.process import held, run_folder
from slm.sweep.variants import evaluated, made, variant


def test_a_variant_differs_in_what_it_names_alone(recipe_of):
    recipe = recipe_of("varied")
    one = variant(recipe, "x/y", {"train.optimizer.lr": 0.5, "model.width": 64})
    assert (one.train.optimizer.lr, one.model.width, one.run) == (0.5, 64, "varied/x/y")
    assert one.folder("shards") == recipe.folder("shards")
    assert one.folder("train").is_relative_to(run_folder(recipe))
    same = {"run": recipe.run, "train.optimizer.lr": recipe.train.optimizer.lr, "model.width": recipe.model.width}
    assert variant(one, "z", same).train == recipe.train
    with pytest.raises(ProblemsError, match=r"train.batch_tokens \(100\) must be a multiple"):
        variant(recipe, "x", {"train.batch_tokens": 100})


@pytest.mark.usefixtures("pretending")
def test_runs_that_fail_are_named_when_all_have_been_tried(recipe_of):
    recipe = recipe_of("failing", seeds=2)
    with pytest.raises(
        UserError, match=r"2 of 4 runs failed: hot with seed \d+: .* is too high; lower it \(see .*hot-s"
    ):
        evaluated(recipe, "tried", {"base": {"train.evaluate_every_steps": 4}, "hot": {"train.optimizer.lr": 0.9}})
    assert len(list(run_folder(recipe).glob("tried/base-seed*/train/metrics.jsonl"))) == 2


def test_a_recipes_changes_are_trained_evaluated_and_compared_once(recipe_of, monkeypatch, capsys):
    recipe = recipe_of("compared", seeds=2, changes=[{"train.optimizer.lr": 1e-5}])
    ablation.run(recipe)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the base is base-seed1235, base-seed1236 (seeds 1235, 1236)" in printed
    assert "train.optimizer.lr: 0.003 -> 1e-05" in printed
    assert "seed by seed" in printed
    page = run_folder(recipe) / "ablation" / "ablation.html"
    assert "1 change of base-seed1235" in page.read_text()
    page.unlink()
    monkeypatch.setattr(variants, "started", lambda *_: pytest.fail("a run was made again"))
    ablation.run(recipe)
    assert page.is_file()


@pytest.mark.usefixtures("pretending")
def test_what_is_there_is_not_made_again_unless_something_changed(recipe_of, monkeypatch):
    begun = []
    real = variants.started
    monkeypatch.setattr(variants, "started", lambda *given: begun.append(given) or real(*given))
    recipe = variant(recipe_of("again"), "one", {"train.evaluate_every_steps": 4})
    with held(run_folder(recipe)) as lock:
        assert made(recipe, lock) == ""
        recipe.folder("evaluate").mkdir()
        (recipe.folder("evaluate") / "manifest.json").write_text("{}")
        assert made(recipe, lock) == ""
        assert len(begun) == 1
        made(variant(recipe_of("again"), "one", {"train.evaluate_every_steps": 8}), lock)
        assert len(begun) == 2


def test_those_that_read_a_teachers_store_share_it(recipe_of):
    recipe = recipe_of("taught")
    store = {"objective.kind": "distill", "objective.distill.source": "store"}
    reading = variant(recipe, "stored", store)
    assert reading.folder("distill") == recipe.folder("distill")
    asking = {"objective.distill.source": "teacher", "objective.distill.teacher": "runs/teacher"}
    for changes in (asking, {"objective.kind": "next_token", "objective.distill.source": "teacher"}):
        assert not variant(reading, "other", changes).artifacts.distill
