"""Learning from a teacher on the one loop: who may teach, what is logged, and that runs go on bit for bit."""

from __future__ import annotations

import pytest
import torch

import slm.distill
import slm.shards
import slm.train
from slm import plan
from slm.core.errors import UserError
from slm.distill.config import DistillConfig
from slm.model.config import ModelConfig
from slm.objective import distill
from slm.objective.config import ObjectiveConfig
from slm.train import loop
from slm.train.metrics import read_metrics
from tests.train.test_parallel import SHAPE, agree, launch

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


@pytest.fixture(scope="module")
def store(make_recipe, teacher):
    """The folder of a store of that teacher."""
    recipe = reading(make_recipe, "store", teacher, "")
    return str(slm.distill.run(recipe.model_copy(update={"distill": DistillConfig(threads=1, unit_tokens=900)})).path)


def reading(make_recipe, name, teacher, store, distill=None, **changes):
    """A student that reads a store."""
    recipe = taught(make_recipe, name, teacher, **changes)
    settings = {"source": "store", "teacher": str(teacher.folder("train")), "cross_entropy": 0.2, **(distill or {})}
    objective = ObjectiveConfig.model_validate({"kind": "distill", "distill": settings})
    artifacts = recipe.artifacts.model_copy(update={"distill": store})
    return recipe.model_copy(update={"objective": objective, "artifacts": artifacts})


def rows(recipe, kind="train"):
    return [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == kind]


def test_a_smaller_student_comes_nearer_to_its_teacher(make_recipe, teacher):
    recipe = taught(make_recipe, "student", teacher, tokens=32 * 256)
    end = slm.train.run(recipe)
    distances = [row["divergence"] for row in rows(recipe)]
    assert sum(distances[-4:]) < 0.8 * sum(distances[:4])
    assert all(0 <= row["teacher_agreement"] <= 1 for row in rows(recipe))
    assert end.manifest["parents"]["teacher"]["fingerprint"] == teacher.artifact("train").fingerprint


def test_micro_batches_are_chosen_and_plans_made_beside_a_teacher(make_recipe, teacher, capsys):
    recipe = taught(make_recipe, "chosen", teacher, micro_batch_rows="auto")
    assert 8 % slm.train.run(recipe).counts["micro_batch_rows"] == 0
    plan.run(recipe)
    printed = capsys.readouterr().out
    assert "  teacher " in printed
    assert "without the optimizer's own and the teacher's" in printed


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


def test_a_student_of_a_store_comes_nearer_to_the_teacher_that_it_never_meets(make_recipe, teacher, store, monkeypatch):
    monkeypatch.delattr(distill, "load_model")
    recipe = reading(make_recipe, "reader", teacher, store, {"teacher": ""}, tokens=32 * 256)
    end = slm.train.run(recipe)
    distances = [row["divergence"] for row in rows(recipe)]
    assert sum(distances[-4:]) < 0.9 * sum(distances[:4])
    assert all(0 <= row["teacher_agreement"] <= 1 for row in rows(recipe))
    parents = end.manifest["parents"]
    assert parents["distill"]["fingerprint"] == recipe.artifact("distill").fingerprint
    assert "teacher" not in parents


def test_of_all_tokens_a_store_teaches_what_the_teacher_does(make_recipe, teacher):
    """With every token kept nothing is lost but half precision; step by step the same figures."""
    every = reading(make_recipe, "every", teacher, "", {"divergence": "jsd"})
    store = {"method": "top_k", "kept": 400, "threads": 1}
    every = every.model_copy(update={"distill": DistillConfig.model_validate(store)})
    slm.distill.run(every)
    online = taught(make_recipe, "online", teacher)
    for recipe in (every, online):
        slm.train.run(recipe)
    for stored, asked in zip(rows(every), rows(online), strict=True):
        assert stored["loss"] == pytest.approx(asked["loss"], rel=1e-3)
        assert stored["divergence"] == pytest.approx(asked["divergence"], rel=1e-2)
        assert stored["teacher_agreement"] == asked["teacher_agreement"]


@pytest.mark.parametrize("changes", [{}, {"curriculum": {"lengths": [8], "shares": [0.5]}}], ids=["whole", "cut"])
def test_a_student_of_a_store_goes_on_bit_for_bit(
    make_recipe, teacher, store, train_dying_in, hashes, figures, changes
):
    name = "cut" if changes else "rows"
    recipe, broken = (
        reading(make_recipe, f"{name}-{end}", teacher, store, save_every_steps=2, **changes)
        for end in ("unbroken", "dying")
    )
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


def test_micro_batches_and_cuts_take_the_stored_rows_with_their_own(make_recipe, teacher, store):
    def seen(**changes):
        recipe = reading(make_recipe, "looked-into", teacher, store, **changes)
        run = loop.prepare(recipe, slm.train.specification(recipe))
        batches = loop.next_batches(run, recipe, 256)
        parts = [
            (b.tokens_BT.flatten(), b.stored.ids_BTK.flatten(0, 1), b.stored.values_BTF.flatten()) for b in batches
        ]
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    whole, halves, cut = (
        seen(**changes)
        for changes in (
            {"micro_batch_rows": 8},
            {"micro_batch_rows": 2},
            {"curriculum": {"lengths": [8], "shares": [0.5]}},
        )
    )
    for other in (halves, cut):
        assert all(torch.equal(*pair) for pair in zip(whole, other, strict=True))


def test_a_poisoned_step_of_a_student_of_a_store_is_left_out(make_recipe, teacher, store, monkeypatch):
    honest, steps = loop.forward_backward, iter(range(1, 99))

    def sick(*arguments):
        loss, norm = honest(*arguments)
        return (float("nan"), norm) if next(steps) == 3 else (loss, norm)

    monkeypatch.setattr(loop, "forward_backward", sick)
    recipe = reading(make_recipe, "poisoned", teacher, store)
    slm.train.run(recipe)
    assert [row["step"] for row in rows(recipe, "skip")] == [3]
    ledger = (recipe.folder("train") / "ledger.jsonl").read_text()
    assert '"compute"' in ledger


def test_two_processes_learn_from_a_store_what_one_learns(make_recipe, teacher, store):
    alone, replicas, shards = (
        reading(make_recipe, f"reader-{how}", teacher, store, **SHAPE, parallel=how)
        for how in ("auto", "ddp", "full_shard")
    )
    slm.train.run(alone)
    done = launch(2, (replicas, ""), (shards, ""))
    assert done.returncode == 0, done.stdout + done.stderr
    for recipe in (replicas, shards):
        agree(recipe, alone, 2e-5)


def test_a_store_that_does_not_fit_is_refused(make_recipe, teacher, store):
    def refused(name, match, settings=None, place=store):
        recipe = reading(make_recipe, name, teacher, place, settings)
        with pytest.raises(UserError, match=match):
            slm.train.run(recipe)

    refused(
        "warmer", r"distill\.temperature \(2\) must be that of the store in .* \(1\); set it so", {"temperature": 2.0}
    )
    refused("backward", r"divergence \(reverse_kl\) cannot be had from draws", {"divergence": "reverse_kl"})
    refused("absent", r"there is no distill in nowhere; .* or name another by artifacts\.distill", place="nowhere")
    stranger = make_recipe("stranger", **SHORT)
    slm.train.run(stranger.model_copy(update={"seed": 9}))
    other = str(stranger.folder("train"))
    refused("untaught", r"\(distill\) was made from teacher \w+, but .*stranger.* is \w+", {"teacher": other})


def test_a_store_of_other_rows_is_refused(make_recipe, teacher, store):
    recipe = reading(make_recipe, "elsewhere", teacher, store)
    longer = recipe.model_copy(update={"run": "longer", "shards": recipe.shards.model_copy(update={"seq_len": 64})})
    own = {"artifacts": recipe.artifacts.model_copy(update={"shards": "", "distill": ""})}
    slm.shards.run(longer.model_copy(update=own))
    places = recipe.artifacts.model_copy(update={"shards": str(longer.folder("train").parent / "shards")})
    with pytest.raises(UserError, match=r"\(distill\) was made from shards \w+, but .*longer/shards is \w+"):
        slm.train.run(recipe.model_copy(update={"artifacts": places, "shards": longer.shards}))


def test_a_spread_teacher_teaches_the_same(make_recipe, teacher, hashes, figures):
    whole, spread = (taught(make_recipe, name, teacher, tokens=2 * 256) for name in ("beside", "spread"))
    slm.train.run(whole)
    distill = spread.objective.distill.model_copy(update={"teacher_memory_bytes": {"cpu": 90_000}})
    recipe = spread.model_copy(update={"objective": spread.objective.model_copy(update={"distill": distill})})
    slm.train.run(recipe)
    assert hashes(recipe) == hashes(whole)
    assert figures(recipe) == figures(whole)


def test_a_teacher_that_is_not_there_is_refused(make_recipe, teacher):
    recipe = taught(make_recipe, "orphan", teacher)
    nobody = recipe.objective.distill.model_copy(update={"teacher": "nowhere"})
    orphan = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"distill": nobody})})
    for asks in (slm.train.run, plan.run):
        with pytest.raises(UserError, match=r"objective\.distill\.teacher \(nowhere\) cannot teach"):
            asks(orphan)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"kind": "distill"}, "needs a teacher"),
        ({"distill": {"teacher": "x"}}, "has no effect on kind next_token"),
        ({"distill": {"teacher_memory_bytes": {"cpu": 9}}}, "has no effect on kind next_token"),
        ({"kind": "distill", "distill": {"teacher": "x"}, "z_loss": 1e-4}, "have no effect on kind distill"),
        ({"kind": "distill", "distill": {"teacher": "x", "beta": 0.2}}, "has no effect on forward_kl"),
        ({"distill": {"source": "store"}}, "distill.source has no effect on kind next_token"),
        ({"kind": "distill", "distill": {"source": "store", "on_policy": 0.5}}, "on_policy needs the teacher itself"),
    ],
    ids=[
        "no teacher",
        "no distillation",
        "no teacher to spread",
        "penalties",
        "beta",
        "no store",
        "own words of a store",
    ],
)
def test_settings_without_effect_are_refused(content, finding):
    with pytest.raises(ValueError, match=finding):
        ObjectiveConfig.model_validate(content)
