"""The student's own answers in the place of the text's: what is written, what is learned, and that runs go on."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import slm.train
from slm.core.batch import IGNORED
from slm.core.distributed import SOLO, World
from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.objective.config import ObjectiveConfig
from slm.recipe import build_recipe
from slm.shards.loader import Loader, collate_parts
from slm.tokenizer import Tokenizer
from slm.train import loop, on_policy
from slm.train.ledger import read_ledger, totals
from slm.train.on_policy import Answer, answers_of, own_answers, with_answers, writes
from slm.train.parallel import Parallel
from tests.train.readings import rows_of

SHORT = {"tokens": 8 * 256, "evaluate_every_steps": 0, "log_every_steps": 1, "save_every_steps": 2}
PAD = 3


@pytest.fixture(scope="module")
def teacher(make_recipe):
    recipe = make_recipe("teacher", **{**SHORT, "tokens": 16 * 256})
    slm.train.run(recipe)
    return recipe


@pytest.fixture(scope="module")
def make_student(make_recipe, teacher):
    def make(name, on_policy, temperature=1.0, **train):
        recipe = make_recipe(name, **{**SHORT, **train})
        small = ModelConfig.model_validate({**recipe.model.model_dump(), "width": 16})
        distill = {"teacher": str(teacher.folder("train").parent), "divergence": "reverse_kl", "cross_entropy": 0.3}
        distill |= {"on_policy": on_policy, "on_policy_temperature": temperature}
        objective = ObjectiveConfig.model_validate({"kind": "distill", "distill": distill})
        return recipe.model_copy(update={"model": small, "objective": objective})

    return make


def batch_of(rows, learned=None):
    """Rows of documents of so many tokens each, 16 a row; ids count from 10."""
    tokens = np.arange(10, 10 + 16 * len(rows)).reshape(len(rows), 16)
    mask = None if learned is None else np.array([[place in row for place in range(16)] for row in learned])
    return collate_parts(tokens, [np.array(row, dtype=np.int32) for row in rows], PAD, len(rows), mask)[0]


def test_the_answers_are_the_last_of_each_conversation_and_the_second_half_of_a_text():
    talk = batch_of([[9, 4], [5, 6]], [{3, 4, 7, 8, 12}, {8, 9, 10}])
    assert answers_of(talk) == [Answer(0, 0, 6, 7), Answer(0, 9, 11, 11), Answer(1, 5, 7, 9)]
    assert answers_of(batch_of([[9, 1, 2]])) == [Answer(0, 0, 3, 7), Answer(0, 10, 10, 10)]


def test_what_was_said_is_all_that_is_learned_and_what_came_before_stays():
    batch = batch_of([[9, 4]], [{3, 4, 6, 7, 12}])
    found = with_answers(batch, answers_of(batch), [[90], [91]], PAD)
    assert found.tokens_BT[0].tolist() == [*range(10, 16), 90, PAD, 18, 19, 20, 21, 91, PAD, PAD, PAD]
    assert [(place, target) for place, target in enumerate(found.targets_BT[0].tolist()) if target != IGNORED] == [
        (5, 90), (11, 91)
    ]  # fmt: skip
    assert (found.num_targets, found.own) == (2, True)
    assert torch.equal(found.documents_BT, batch.documents_BT)
    assert batch.tokens_BT[0, 6] == 16, "the batch itself is left as it was"


def prepared(recipe):
    """A run before its first step, its batches, and the same with the student's answers."""
    run = loop.prepare(recipe, slm.train.specification(recipe))
    batches = loop.next_batches(run, recipe, recipe.train.batch_tokens)
    return run, batches, list(own_answers(run, recipe, batches))


def test_what_is_written_is_what_the_student_finds_likely(make_student):
    run, batches, written = prepared(make_student("likely", 1.0, temperature=1e-5))
    checked = 0
    for before, after in zip(batches, written, strict=True):
        with torch.no_grad():
            logits_BTV = run.state.model(
                after.tokens_BT, positions_BT=after.positions_BT, documents_BT=after.documents_BT
            )
        places = after.targets_BT != IGNORED
        assert torch.equal(logits_BTV.argmax(-1)[places], after.targets_BT[places])
        assert torch.equal(after.targets_BT[places], after.tokens_BT.roll(-1, 1)[places])
        kept = torch.ones_like(after.tokens_BT, dtype=torch.bool)
        for one in answers_of(before):
            kept[one.row, one.first + 1 : one.last + 2] = False
        assert torch.equal(before.tokens_BT[kept], after.tokens_BT[kept])
        checked += int(places.sum())
    assert checked > 50


def asked(recipe, monkeypatch, micro_rows, world=SOLO, steps=1):
    """The prompts, with their seeds, of the last of so many steps in one process of a world."""
    shards, found = recipe.artifact("shards"), []

    def said(_model, _tokenizer, prompts, **_):
        found.extend(prompts)
        yield [SimpleNamespace(number=number, ids=[9]) for number in range(len(prompts))]

    monkeypatch.setattr(on_policy, "generate", said)
    loader = Loader(
        shards, batch_rows=8, micro_batch_rows=micro_rows, seed=1, rank=world.rank, world_size=world.size,
        prefetch_steps=0,
    )  # fmt: skip
    run = SimpleNamespace(
        parallel=Parallel(world), working=SimpleNamespace(refresh=lambda: None), precision="fp32",
        tokenizer=Tokenizer.load(recipe.folder("tokenizer")), state=SimpleNamespace(loader=loader),
    )  # fmt: skip
    for _ in range(steps):
        batches = loader.step()
    assert len(list(own_answers(run, recipe, batches))) == len(batches)
    return {(one.ids.tobytes(), one.seed) for one in found}


def test_draws_have_seeds_of_their_own_by_the_seed_and_the_place_of_the_row_in_the_stream(make_student, monkeypatch):
    recipe = make_student("seeds", 1.0)
    whole = asked(recipe, monkeypatch, 4)
    assert len({seed for _, seed in whole}) == len(whole) >= 8
    assert asked(recipe, monkeypatch, 2) == whole
    halves = [asked(recipe, monkeypatch, 1, World(rank, 2)) for rank in range(2)]
    assert halves[0] | halves[1] == whole
    assert not {seed for _, seed in asked(recipe, monkeypatch, 4, steps=2)} & {seed for _, seed in whole}
    assert asked(recipe.model_copy(update={"seed": 7}), monkeypatch, 4) != whole


def test_a_step_is_the_students_own_with_the_chance_that_is_set(make_student):
    never, some, always = (make_student("chance", share) for share in (0.0, 0.3, 1.0))
    assert not any(writes(never, step) for step in range(1000))
    assert all(writes(always, step) for step in range(1000))
    assert sum(writes(some, step) for step in range(1000)) == pytest.approx(300, abs=60)
    again = some.model_copy(update={"seed": 7})
    assert [writes(again, step) for step in range(99)] != [writes(some, step) for step in range(99)]


def test_a_student_learns_of_its_own_words_and_the_ledger_says_what_they_cost(make_student):
    recipe = make_student("learns", 1.0, tokens=40 * 256)
    slm.train.run(recipe)
    rows = rows_of(recipe, "train")
    distances = [row["divergence"] for row in rows]
    assert sum(distances[-6:]) < 0.8 * sum(distances[:6])
    assert all(row["on_policy"] == 1 for row in rows)
    booked = totals(read_ledger(recipe.folder("train")))
    assert booked["generate"] > 0


def test_of_its_own_words_only_the_teachers_opinion_counts(make_student):
    run, _, written = prepared(make_student("opinion", 1.0))
    loss = run.objective(run.state.model, written[0])
    torch.testing.assert_close(loss.nats_sum.detach(), loss.metrics["divergence"])
    mixed = run.objective(run.state.model, replace(written[0], own=False))
    torch.testing.assert_close(mixed.nats_sum.detach(), 0.7 * loss.metrics["divergence"] + 0.3 * loss.cross_entropy_sum)


def test_it_goes_on_bit_for_bit_after_dying(make_student, train_dying_in, hashes, figures):
    recipe, broken = (make_student(name, 0.5) for name in ("whole", "broken"))
    slm.train.run(recipe)
    assert {row["on_policy"] for row in rows_of(recipe, "train")} == {0, 1}
    train_dying_in(broken, 4, 7)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


@pytest.mark.parametrize("poison", [math.nan, 1e9])
def test_the_guard_refuses_a_bad_step_on_the_students_own_words(make_student, monkeypatch, poison):
    recipe = make_student(f"guarded-{poison:g}", 1.0, guard={"warm_in": 2, "window": 4})
    honest, steps = loop.forward_backward, iter(range(99))

    def poisoned(*arguments):
        loss, norm = honest(*arguments)
        return (poison if next(steps) == 5 else loss), norm

    monkeypatch.setattr(loop, "forward_backward", poisoned)
    slm.train.run(recipe)
    assert [row["step"] for row in rows_of(recipe, "skip")] == [6]


def test_rows_that_are_cut_are_refused():
    distill = {"teacher": "t", "on_policy": 1}
    with pytest.raises(UserError, match=r"train\.curriculum\.lengths \(32\) would cut them"):
        build_recipe({
            "objective": {"kind": "distill", "distill": distill},
            "train": {"curriculum": {"lengths": [32], "shares": [0.5]}},
        })  # fmt: skip


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"distill": {"on_policy": 0.5}}, "on_policy has no effect on kind next_token"),
        (
            {"kind": "distill", "distill": {"teacher": "x", "on_policy_temperature": 2}},
            "no effect where on_policy is 0",
        ),
    ],
    ids=["no distillation", "no answers"],
)
def test_settings_without_effect_are_refused(content, finding):
    with pytest.raises(ValueError, match=finding):
        ObjectiveConfig.model_validate(content)
