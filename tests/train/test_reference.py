"""Learning preferences on the one loop: the cached reference, what is logged, and that runs go on bit for bit."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from safetensors.torch import load_file

import slm.train
import slm.train.loop
from slm.core.artifact import open_artifact
from slm.core.batch import IGNORED
from slm.core.distributed import SOLO, World
from slm.core.errors import UserError
from slm.model.load import load_model, load_tensors
from slm.objective.config import ObjectiveConfig
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader
from slm.train import reference
from slm.train.ledger import read_ledger, totals
from tests.preferences import labelled, pair, preference_shards
from tests.train.test_parallel import launch

SHORT = {"tokens": 4 * 256, "evaluate_every_steps": 0, "log_every_steps": 1}
LONGER = {"tokens": 16 * 256, "optimizer": {"kind": "adamw", "lr": 0.01, "weight_decay": 0.0}}


@pytest.fixture(scope="module")
def base(make_recipe):
    recipe = make_recipe("base", tokens=8 * 256, evaluate_every_steps=0)
    slm.train.run(recipe)
    return recipe


@pytest.fixture(scope="module")
def shards(prepared):
    """The shards of both kinds by name."""
    kinds = {
        "pairs": [pair(number) for number in range(64)],
        "labelled": [row for number in range(64) for row in labelled(number)],
    }
    made = {kind: preference_shards(prepared, kind, rows, kind) for kind, rows in kinds.items()}
    return {kind: recipe.folder("shards") for kind, recipe in made.items()}


def preferring(make_recipe, name, base, shards, loss="dpo", kind="pairs", **changes):
    wanted = {"initial": str(base.folder("train").parent), "micro_batch_rows": 2, **SHORT, **changes}
    recipe = make_recipe(name, **wanted)
    objective = ObjectiveConfig.model_validate({"kind": "preference", "preference": {"loss": loss}})
    artifacts = recipe.artifacts.model_copy(update={"shards": str(shards[kind])})
    sections = {"objective": objective, "artifacts": artifacts}
    return recipe.model_copy(update={**sections, "shards": recipe.shards.model_copy(update={"seq_len": 64})})


def rows(recipe, figures, kind="train"):
    return [row for row in figures(recipe) if row["kind"] == kind]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "orpo", "simpo", "kto"])
def test_every_loss_learns_which_answers_are_chosen(make_recipe, base, shards, figures, loss):
    recipe = preferring(make_recipe, f"learns-{loss}", base, shards, loss, **LONGER, evaluate_every_steps=16)
    slm.train.run(recipe)
    logged = rows(recipe, figures)
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["margin"] > logged[0]["margin"]
    assert rows(recipe, figures, "evaluate")[-1]["log_prob_accuracy"] >= 0.8


def test_at_first_the_model_is_its_own_reference(make_recipe, base, shards, figures):
    recipe = preferring(make_recipe, "first", base, shards)
    end = slm.train.run(recipe)
    first = rows(recipe, figures)[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    for name in ("margin", "chosen_reward", "rejected_reward", "kl"):
        assert first[name] == pytest.approx(0, abs=1e-4)
    assert first["chosen_tokens"] > 1
    assert end.manifest["parents"]["initial"]["fingerprint"] == base.artifact("train").fingerprint


def test_the_cache_holds_what_the_reference_says_of_each_answer_alone(make_recipe, base, shards):
    recipe = preferring(make_recipe, "cached", base, shards)
    slm.train.run(recipe)
    table = load_file(open_artifact(recipe.folder("train").with_name("reference"), "reference").file(reference.FILE))
    model, reader = load_model(base.artifact("train").path), ShardReader(recipe.artifact("shards"), "validation")
    assert table["validation"].shape[0] == reader.num_rows
    for row in range(reader.num_rows):
        batch = read_batch(reader, [row])
        for document in range(int(batch.documents_BT.max()) + 1):
            mine = batch.documents_BT[0] == document
            tokens_T, targets_T = batch.tokens_BT[0][mine], batch.targets_BT[0][mine]
            with torch.no_grad():
                log_probs = model(tokens_T[None])[0].log_softmax(-1)
            expected = log_probs.gather(1, targets_T.clamp_min(0)[:, None])[:, 0][targets_T != IGNORED].sum()
            torch.testing.assert_close(table["validation"][row, document], expected, atol=1e-4, rtol=0)


def test_any_number_of_processes_asks_for_every_row_once_and_finds_the_same(base, shards, monkeypatch):
    monkeypatch.setattr(reference, "BATCH_TOKENS", 3 * 64)
    model = load_model(base.artifact("train").path)
    reader = ShardReader(open_artifact(shards["pairs"], "shards"), "train")
    whole = reference.ask(model, reader, "cpu", "fp32", SOLO)
    assert len(whole) >= 5
    assert len(reference.joined([whole])) == reader.num_rows
    for size in (2, 3, len(whole) + 1):
        parts = [reference.ask(model, reader, "cpu", "fp32", World(rank, size)) for rank in range(size)]
        assert max(map(len, parts)) < len(whole)
        assert torch.equal(reference.joined(parts), reference.joined([whole]))


def test_the_cache_is_made_once_and_again_for_another_reference(make_recipe, base, shards, monkeypatch):
    asked, honest = [], reference.ask
    monkeypatch.setattr(reference, "ask", lambda *words: asked.append(1) or honest(*words))
    recipe = preferring(make_recipe, "asked", base, shards)
    slm.train.run(recipe)
    assert len(asked) == 2
    (recipe.folder("train") / "latest").unlink()
    slm.train.run(recipe.model_copy(update={"redo": True}))
    assert len(asked) == 2
    other = make_recipe("other", tokens=4 * 256, evaluate_every_steps=0)
    slm.train.run(other)
    changed = preferring(make_recipe, "asked", other, shards).model_copy(update={"redo": True})
    slm.train.run(changed)
    assert len(asked) == 4
    made = open_artifact(recipe.folder("train").with_name("reference"), "reference")
    assert made.manifest["parents"]["reference"]["fingerprint"] == other.artifact("train").fingerprint


def test_wanted_and_unwanted_answers_need_no_pairs(make_recipe, base, shards, figures):
    recipe = preferring(make_recipe, "labelled", base, shards, "kto", "labelled", **LONGER)
    slm.train.run(recipe)
    logged = rows(recipe, figures)
    both = [row for row in logged if {"chosen_reward", "rejected_reward"} <= row.keys()]
    gaps = [row["chosen_reward"] - row["rejected_reward"] for row in both]
    assert gaps[-1] > gaps[0] + 0.1
    assert "margin" not in logged[0]
    assert len(both) < len(logged), "of steps without a wanted, or an unwanted, answer nothing is said of such"
    assert all(row.get(f"{side}_tokens", 1) > 0 for row in logged for side in ("chosen", "rejected"))


def test_the_first_step_is_logged_for_what_comes_later_to_be_compared_with(make_recipe, base, shards, figures):
    recipe = preferring(make_recipe, "seldom", base, shards, log_every_steps=10)
    slm.train.run(recipe)
    assert [row["step"] for row in rows(recipe, figures)] == [1, 4]


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_it_goes_on_bit_for_bit_after_dying(make_recipe, base, shards, train_dying_in, hashes, figures, loss):
    recipe, broken = (
        preferring(make_recipe, f"{name}-{loss}", base, shards, loss, save_every_steps=2) for name in ("whole", "dead")
    )
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


def test_micro_batches_do_not_change_what_is_learned(make_recipe, base, shards, figures):
    small, large = (preferring(make_recipe, f"micro-{n}", base, shards, "kto", micro_batch_rows=n) for n in (2, 4))
    for recipe in (small, large):
        slm.train.run(recipe)
    for one, other in zip(rows(small, figures), rows(large, figures), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-5)


def test_the_account_of_a_run_counts_what_asking_the_reference_took(make_recipe, base, shards, monkeypatch):
    recipe, honest = preferring(make_recipe, "accounted", base, shards), reference.ask
    monkeypatch.setattr(reference, "ask", lambda *words: time.sleep(0.5) or honest(*words))
    began = time.perf_counter()
    slm.train.run(recipe)
    spent = totals(read_ledger(recipe.folder("train")))
    assert spent["start"] > 1.0
    assert sum(spent.values()) == pytest.approx(time.perf_counter() - began, abs=0.5)


def test_micro_batches_that_are_chosen_keep_pairs_whole(make_recipe, base, shards):
    recipe = preferring(make_recipe, "chosen", base, shards, "orpo", micro_batch_rows="auto", batch_tokens=6 * 64)
    assert slm.train.run(recipe).counts["micro_batch_rows"] % 2 == 0


def test_a_step_that_spikes_is_skipped(make_recipe, base, shards, figures, monkeypatch):
    recipe = preferring(make_recipe, "spiked", base, shards)
    honest, seen = slm.train.loop.forward_backward, []

    def spiking(*words):
        found = honest(*words)
        seen.append(1)
        return (float("nan"), found[1]) if len(seen) == 2 else found

    monkeypatch.setattr(slm.train.loop, "forward_backward", spiking)
    slm.train.run(recipe)
    assert [row["step"] for row in rows(recipe, figures, "skip")] == [2]


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_run_is_rewound_past_rows_that_poison_it(make_recipe, base, shards, figures, monkeypatch, loss):
    guard = {"warm_in": 2, "window": 4, "max_skips": 2}
    recipe = preferring(
        make_recipe,
        f"rewound-{loss}",
        base,
        shards,
        loss,
        tokens=8 * 256,
        save_every_steps=2,
        guard=guard,
        checkpoints={"keep_last": 9},
    )
    honest, seen = slm.train.loop.forward_backward, []

    def poisoned(*words):
        found = honest(*words)
        seen.append(found)
        return (math.nan, found[1]) if len(seen) in (5, 6) else found

    monkeypatch.setattr(slm.train.loop, "forward_backward", poisoned)
    slm.train.run(recipe)
    (rewound,) = rows(recipe, figures, "rewind")
    assert rewound["to_step"] == 4
    told = json.loads((recipe.folder("train") / rewound["autopsy"]).read_text())["rows"]
    model, reader = (
        load_model(recipe.folder("train") / "step-00000004"),
        ShardReader(recipe.artifact("shards"), "train"),
    )
    for row in (row for row in told if "loss" in row):
        batch = read_batch(reader, [row["shard_row"]])
        with torch.no_grad():
            log_probs = model(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        mean = torch.nn.functional.cross_entropy(log_probs[0], batch.targets_BT[0], ignore_index=IGNORED)
        assert row["loss"] == pytest.approx(float(mean), rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "kind", "changes", "finding"),
    [
        ("dpo", "labelled", {}, "loss=dpo needs pairs of answers, but .* holds answers with a label"),
        ("dpo", "pairs", {"initial": ""}, "loss=dpo compares with a reference; begin with one by train.initial=RUN"),
        ("dpo", "pairs", {"micro_batch_rows": 1}, r"train.micro_batch_rows \(1\) must be even"),
        ("dpo", "pairs", {"curriculum": {"lengths": [16], "shares": [0.5]}}, "train.curriculum cuts rows"),
    ],
    ids=["labels", "no reference", "odd rows", "curriculum"],
)
def test_what_preferences_cannot_follow_is_refused(make_recipe, base, shards, loss, kind, changes, finding):
    recipe = preferring(make_recipe, "refused", base, shards, loss, kind, **changes)
    with pytest.raises(UserError, match=finding):
        slm.train.run(recipe)


def test_rows_and_objective_must_suit_each_other(make_recipe, base, shards):
    recipe = preferring(make_recipe, "unsuited", base, shards)
    plain = recipe.model_copy(update={"objective": ObjectiveConfig()})
    with pytest.raises(
        UserError, match=r"holds preferences, which objective\.kind=next_token would learn both sides of"
    ):
        slm.train.run(plain)
    text = make_recipe("text", initial=str(base.folder("train").parent)).model_copy(
        update={"objective": recipe.objective}
    )
    with pytest.raises(UserError, match=r"objective\.kind is preference, but .* holds none"):
        slm.train.run(text)


def test_two_processes_learn_what_one_learns(make_recipe, base, shards, figures):
    steps = {"evaluate_every_steps": 2, "save_every_steps": 2}
    alone = {loss: preferring(make_recipe, f"{loss}-1", base, shards, loss, **steps) for loss in ("dpo", "kto")}
    two = {
        loss: preferring(make_recipe, f"{loss}-2", base, shards, loss, **steps, parallel=how)
        for loss, how in (("dpo", "ddp"), ("kto", "full_shard"))
    }
    done = launch(2, *((recipe, "") for recipe in two.values()))
    assert done.returncode == 0, done.stdout + done.stderr
    for loss, recipe in alone.items():
        slm.train.run(recipe)
        mine, others = figures(recipe), figures(two[loss])
        assert len(mine) == len(others) == 7
        for row, other in zip(mine, others, strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                wanted = other[name] if isinstance(value, str) else pytest.approx(other[name], rel=1e-4, abs=1e-4)
                assert value == wanted, name
        weights, expected = (load_tensors(one.artifact("train").path) for one in (recipe, two[loss]))
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4, msg=name)
