"""Learning from a teacher on the one loop: who may teach, what is logged, and that runs go on bit for bit."""

from __future__ import annotations

import pytest

import slm.train
from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.objective import distill
from slm.objective.config import ObjectiveConfig
from slm.train import loop
from slm.train.metrics import read_metrics

SHORT = {"tokens": 4 * 256, "evaluate_every_steps": 0, "log_every_steps": 1}


@pytest.fixture(scope="module")
def teacher(make_recipe):
    recipe = make_recipe("teacher", **{**SHORT, "tokens": 16 * 256})
    slm.train.run(recipe)
    return recipe


def taught(make_recipe, name, teacher, width=8, **changes):
    recipe = make_recipe(name, **{**SHORT, **changes})
    smaller = ModelConfig.model_validate({**recipe.model.model_dump(), "width": width})
    distill = {"teacher": str(teacher.folder("train").parent), "divergence": "jsd", "cross_entropy": 0.2}
    objective = ObjectiveConfig.model_validate({"kind": "distill", "distill": distill})
    return recipe.model_copy(update={"model": smaller, "objective": objective})


def rows(recipe, kind="train"):
    return [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == kind]


def test_a_smaller_student_comes_nearer_to_its_teacher(make_recipe, teacher):
    recipe = taught(make_recipe, "student", teacher, tokens=32 * 256)
    end = slm.train.run(recipe)
    distances = [row["divergence"] for row in rows(recipe)]
    assert sum(distances[-4:]) < 0.8 * sum(distances[:4])
    assert all(0 <= row["teacher_agreement"] <= 1 for row in rows(recipe))
    assert end.manifest["parents"]["teacher"]["fingerprint"] == teacher.artifact("train").fingerprint


def test_evaluations_do_not_ask_the_teacher(make_recipe, teacher, monkeypatch):
    asked, during = [], []
    honest, evaluate = distill.linear_divergence, loop.evaluate
    monkeypatch.setattr(distill, "linear_divergence", lambda *a: asked.append(1) or honest(*a))

    def watched(*arguments):
        before = len(asked)
        evaluate(*arguments)
        during.append(len(asked) - before)

    monkeypatch.setattr(loop, "evaluate", watched)
    recipe = taught(make_recipe, "evaluated", teacher, evaluate_every_steps=4)
    slm.train.run(recipe)
    assert asked
    assert during == [0]
    assert rows(recipe, "evaluate")[-1]["loss"] > 0


def test_it_goes_on_bit_for_bit_after_dying(make_recipe, teacher, train_dying_in, hashes, figures):
    recipe, broken = (taught(make_recipe, name, teacher, save_every_steps=2) for name in ("whole", "broken"))
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


def test_a_teacher_that_is_not_there_is_refused(make_recipe, teacher):
    recipe = taught(make_recipe, "orphan", teacher)
    nobody = recipe.objective.distill.model_copy(update={"teacher": "nowhere"})
    orphan = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"distill": nobody})})
    with pytest.raises(UserError, match=r"objective\.distill\.teacher \(nowhere\) cannot teach"):
        slm.train.run(orphan)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"kind": "distill"}, "needs a teacher"),
        ({"distill": {"teacher": "x"}}, "has no effect on kind next_token"),
        ({"kind": "distill", "distill": {"teacher": "x"}, "z_loss": 1e-4}, "have no effect on kind distill"),
        ({"kind": "distill", "distill": {"teacher": "x", "beta": 0.2}}, "has no effect on forward_kl"),
    ],
    ids=["no teacher", "no distillation", "penalties", "beta"],
)
def test_settings_without_effect_are_refused(content, finding):
    with pytest.raises(ValueError, match=finding):
        ObjectiveConfig.model_validate(content)
