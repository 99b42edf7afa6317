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
    sweep = {"seeds": 2, "changes": [{"train.optimizer.lr": 1e-5}]}
    recipe = recipe_of("compared", **sweep)
    ablation.run(recipe)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the base is base-seed1235, base-seed1236 (seeds 1235, 1236)" in printed
    assert "train.optimizer.lr: 0.003 -> 1e-05" in printed
    assert "seed by seed" in printed
    page = run_folder(recipe) / "ablation" / "ablation.html"
    assert "1 change of base-seed1235" in page.read_text()
    page.unlink()
    real = variants.started
    monkeypatch.setattr(variants, "started", lambda *_: pytest.fail("a run was made again"))
    ablation.run(recipe)
    assert page.is_file()
    monkeypatch.setattr(variants, "started", real)
    longer = recipe_of("compared", {"train": {**recipe.train.model_dump(), "tokens": 24 * 256}}, **sweep)
    for _ in range(2):  # each time, though the first has found what is there
        with pytest.raises(UserError, match=r"4 of 4 runs failed: .*train.tokens: 4096 -> 6144"):
            ablation.run(longer)


def test_what_was_evaluated_otherwise_is_not_taken_for_what_is_asked(recipe_of, tmp_path):
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"name": "one", "prompt": "def", "continuation": " f", "min_logprob_per_token": -99.0}\n')
    recipe = variant(recipe_of("golden", {"evaluate": {"max_documents": 4, "golden": str(golden)}}), "one", {})
    with held(run_folder(recipe)) as lock:
        assert made(recipe, lock) == ""
        golden.write_text(golden.read_text() + "\n")
        for _ in range(2):
            assert "evaluate was made by another recipe or from other data (inputs.golden" in made(recipe, lock)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"train.clip_norm": 1.0}], r"change-1 \(\{\"train.clip_norm\": 1.0\}\) says the same as the recipe as it is"),
        (
            [{"train.clip_norm": 2}, {"train.clip_norm": 2, "train.precision": "fp32"}],
            r"change-2 .* says the same as change-1, so there is",
        ),
    ],
    ids=["recipe", "change"],
)
def test_a_change_that_changes_nothing_is_refused_before_any_run(recipe_of, changes, words):
    with pytest.raises(UserError, match=words):
        ablation.run(recipe_of("nothing", changes=changes))
    assert not run_folder(recipe_of("nothing")).exists()


def test_those_that_read_a_teachers_store_share_it(recipe_of):
    recipe = recipe_of("taught")
    store = {"objective.kind": "distill", "objective.distill.source": "store"}
    reading = variant(recipe, "stored", store)
    assert reading.folder("distill") == recipe.folder("distill")
    asking = {"objective.distill.source": "teacher", "objective.distill.teacher": "runs/teacher"}
    for changes in (asking, {"objective.kind": "next_token", "objective.distill.source": "teacher"}):
        assert not variant(reading, "other", changes).artifacts.distill
