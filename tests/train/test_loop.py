"""The loop: exact under kills, independent of micro-batches, and clear about bad input."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import slm.train
from slm.core.errors import UserError
from slm.recipe import Recipe, build_recipe
from slm.train import loop
from slm.train.checkpoint import step_folders
from slm.train.plan import plan
from tests.train.readings import rows_of


def test_a_run_killed_at_every_point_equals_the_unbroken_one_bit_for_bit(
    make_recipe, unbroken, figures, hashes, train_until_killed
):
    recipe = make_recipe("killed")
    for point, number in [
        ("step", 3),  # before anything was saved
        ("write", 2),  # in the middle of the first save
        ("manifest", 1),  # files flushed, no manifest yet
        ("rename", 1),  # manifest written, not yet renamed into place
        ("latest", 1),  # published, but `latest` not yet pointing at it
        ("evaluate", 1),  # in the evaluation after it
        ("step", 6),  # after the second save
        ("prune", 1),  # while the oldest checkpoint is deleted
        ("evaluate", 1),  # between the last save and the last evaluation
    ]:
        train_until_killed(recipe, point, number)
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    assert names(recipe) == names(unbroken)


def names(recipe: Recipe) -> list[str]:
    """Of everything in a run's folder: what half-done saves and deletions leave must not stay."""
    return sorted(path.name for path in recipe.folder("train").iterdir())


@pytest.mark.parametrize("extra", [{}, {"precision": "bf16", "optimizer": {"kind": "muon"}}], ids=["fp32", "bf16 muon"])
def test_a_run_killed_on_both_sides_of_an_epoch_s_border_equals_the_unbroken_one(
    extra, make_recipe, train_until_killed, figures, hashes
):
    """With everything in the state that a recipe can ask for: average, guard, generator, cursor."""
    settings = {
        "batch_tokens": 2048,
        "micro_batch_rows": 16,
        "tokens": 16 * 2048,
        "ema_decay": 0.9,
        **extra,
        "save_every_steps": 2,
    }
    whole, broken = (make_recipe(f"two-epochs-{name}-{len(extra)}", **settings) for name in ("whole", "broken"))
    slm.train.run(whole)
    state = json.loads((whole.artifact("train").path / "state.json").read_text())
    assert state["loader"]["epoch"] == 1
    rows = state["loader"]["row"] // 16  # of a step
    border = next(step for step in range(1, 17) if step * rows >= whole.artifact("shards").counts["train"]["rows"])
    train_until_killed(broken, "step", border)  # its step crosses the border and is lost
    train_until_killed(broken, "step", 4)  # two further, in the second epoch
    slm.train.run(broken)
    assert hashes(broken) == hashes(whole)
    assert figures(broken) == figures(whole)


def test_losses_fall_and_every_step_is_logged_once(unbroken, figures):
    rows = [row for row in figures(unbroken) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["tokens"] for row in rows] == [step * 256 for step in range(1, 13)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


def test_micro_batches_do_not_change_what_a_step_learns(make_recipe, unbroken, figures):
    for rows in (1, 8):
        recipe = make_recipe(f"micro-{rows}", micro_batch_rows=rows)
        slm.train.run(recipe)
        pairs = zip(figures(recipe), figures(unbroken), strict=True)
        for mine, other in ((mine, other) for mine, other in pairs if "loss" in other):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_recomputing_activations_changes_nothing_that_is_learned(make_recipe, unbroken, figures, hashes):
    """All of it: the same bits, since whole blocks are computed again; parts: other kernels, the same to rounding."""
    whole, parts = (make_recipe(f"recomputing-{kind}", activation_checkpointing=kind) for kind in ("full", "selective"))
    slm.train.run(whole)
    slm.train.run(parts)
    assert hashes(whole) == hashes(unbroken)
    found, expected = ([row["loss"] for row in figures(one) if row["kind"] == "train"] for one in (parts, unbroken))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_finished_run_does_nothing_the_second_time(unbroken, capsys, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("trained again"))
    again = slm.train.run(unbroken)
    assert again.counts["finished"]
    assert "train: up to date in" in capsys.readouterr().out


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(make_recipe, unbroken, tmp_path, figures, hashes):
    recipe = make_recipe("interrupted", save_every_steps=1000)
    program = (
        "import os, signal, sys, pathlib\n"
        "import slm.train, slm.train.loop as loop\n"
        "from slm.compose import guarded\n"
        "from slm.recipe import Recipe\n"
        "inner, count = loop.forward_backward, 0\n"
        "def counting(*a):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 7: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return inner(*a)\n"
        "loop.forward_backward = counting\n"
        "recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        "guarded(lambda: slm.train.run(recipe))\n"
    )
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 85
    assert "the same command goes on from where it was" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in step_folders(recipe.folder("train"))] == ["step-00000007"]
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_what_is_saved_does_not_wait_for_an_evaluation(make_recipe, unbroken, train_until_killed, figures, hashes):
    """Killed between the two batches of an evaluation at a step that saves too, and again where it goes on from."""
    recipe = make_recipe("in-order", save_every_steps=5, evaluate_every_steps=5)
    for number, step in [(2, 5), (2, 5), (4, 10)]:
        train_until_killed(recipe, "batch", number)
        assert step_folders(recipe.folder("train"))[0].name == f"step-{step:08d}"
        assert [row["step"] for row in figures(recipe) if row["kind"] == "train"] == list(range(1, step + 1))
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


@pytest.mark.parametrize(
    "extra",
    [{"precision": "bf16"}, {"optimizer": {"kind": "muon"}}, {"precision": "bf16_weights"}],
    ids=["bf16 autocast", "muon", "bf16 weights"],
)
def test_a_run_interrupted_twice_in_other_arithmetic_equals_the_unbroken_one(
    extra, make_recipe, train_until_step, monkeypatch, request, figures, hashes
):
    monkeypatch.setattr("slm.train.precision.multiplies_bf16", lambda _device: True)  # the same numbers, if slower
    which = request.node.callspec.id.replace(" ", "-")
    whole, broken = (make_recipe(f"{name}-{which}", **extra) for name in ("whole", "broken"))
    slm.train.run(whole)
    train_until_step(broken, 6)
    train_until_step(broken, 10)
    slm.train.run(broken)
    assert figures(broken) == figures(whole)
    assert hashes(broken) == hashes(whole)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    make_recipe, unbroken, capsys, hashes, train_until_killed
):
    recipe = make_recipe("damaged")
    train_until_killed(recipe, "step", 10)
    newest, older = step_folders(recipe.folder("train"))
    weights = newest / "model-00001-of-00001.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0x10
    weights.write_bytes(content)
    capsys.readouterr()
    slm.train.run(recipe)
    printed = capsys.readouterr().out
    assert "its sha256 is not the one in its manifest" in printed
    assert f"set aside as {newest.name}.damaged" in printed
    assert f"going on from {older}" in printed
    assert hashes(recipe) == hashes(unbroken)


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_no_sound_checkpoint_left_starts_again_and_says_so(
    make_recipe, unbroken, capsys, how, hashes, train_until_killed
):
    recipe = make_recipe(f"hopeless-{how}")
    train_until_killed(recipe, "step", 6)
    (only,) = step_folders(recipe.folder("train"))
    weights = only / "model-00001-of-00001.safetensors"
    if how == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        weights.unlink()
    slm.train.run(recipe)
    assert "set aside as" in capsys.readouterr().out
    assert hashes(recipe) == hashes(unbroken)


WAY_OUT = "choose another run=NAME to keep them, or add redo=true to delete them and start again"


def refused(recipe: Recipe) -> str:
    """The changes that training is refused for; the way out is told, and nothing is touched."""
    before = {file: file.read_bytes() for file in recipe.folder("train").rglob("*") if file.is_file()}
    with pytest.raises(UserError) as caught:
        slm.train.run(recipe)
    where, told, way_out = re.fullmatch(r"(.*) holds checkpoints of .* data \((.*)\); (.*)", str(caught.value)).groups()
    assert (where, way_out) == (str(recipe.folder("train")), WAY_OUT)
    assert before == {file: file.read_bytes() for file in recipe.folder("train").rglob("*") if file.is_file()}
    return told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_tokens": 512, "tokens": 12 * 512}, "train.tokens: 3072 -> 6144; train.batch_tokens: 256 -> 512"),
        ({"optimizer": {"lr": 0.0125}}, "train.optimizer.lr: {lr} -> 0.0125"),
        ({"schedule": {"kind": "linear"}}, 'train.schedule.kind: "{schedule}" -> "linear"'),
        ({"ema_decay": 0.9}, "train.ema_decay: 0.0 -> 0.9"),
    ],
    ids=["batch_tokens", "lr", "schedule", "average"],
)
def test_checkpoints_of_another_recipe_are_refused_with_both_values(make_recipe, unbroken, settings, told):
    now = {"lr": unbroken.train.optimizer.lr, "schedule": unbroken.train.schedule.kind}
    assert refused(make_recipe("unbroken", **settings)) == told.format(**now)


def test_checkpoints_of_another_seed_are_refused_with_both_values(unbroken):
    assert refused(unbroken.model_copy(update={"seed": 7})) == f"seed: {unbroken.seed} -> 7"


@pytest.fixture(scope="module")
def made_again(prepared, make_recipe, tmp_path_factory) -> Callable[..., Recipe]:
    """`made_again(["shards"], shards={"seq_len": 64})`: the unbroken run's recipe over stages made otherwise."""

    def make(stages: list[str], text: str = "", **sections: dict[str, Any]) -> Recipe:
        values = make_recipe("unbroken").model_dump(mode="json")
        folder, own = tmp_path_factory.mktemp("again"), values["runs_dir"]
        for name, changes in sections.items():
            values[name].update(changes)
        if text:
            (folder / "text.jsonl").write_text((prepared / "text.jsonl").read_text() + json.dumps({"text": text}))
            values["corpus"]["sources"][0]["path"] = str(folder / "text.jsonl")
        for stage in stages:
            values["artifacts"].pop(stage)
        values["runs_dir"] = str(folder)
        for stage in stages:
            importlib.import_module(f"slm.{stage}").run(build_recipe(values))
            values["artifacts"][stage] = str(folder / "unbroken" / stage)
        return build_recipe({**values, "runs_dir": own})

    return make


def fingerprints(stage: str, *recipes: Recipe) -> str:
    """What is told of the parents of two recipes."""
    one, other = (f'"{recipe.artifact(stage).fingerprint[:56]}...' for recipe in recipes)
    return f"parents.{stage}: {one} -> {other}"


def test_checkpoints_of_other_data_are_refused_with_both_fingerprints(made_again, unbroken):
    other = made_again(["corpus", "shards"], text="one more document")
    assert refused(other) == fingerprints("shards", unbroken, other)


def test_checkpoints_of_another_row_length_are_refused_with_both_lengths(made_again, unbroken):
    other = made_again(["shards"], shards={"seq_len": 64})
    assert refused(other) == f"{fingerprints('shards', unbroken, other)}; shards.seq_len: 32 -> 64"


def test_checkpoints_of_another_tokenizer_are_refused_with_both_settings(made_again, unbroken):
    other = made_again(["tokenizer", "shards"], tokenizer={"split_digits": False})
    told = [fingerprints("shards", unbroken, other), fingerprints("tokenizer", unbroken, other)]
    assert refused(other) == "; ".join([*told, "tokenizer.split_digits: true -> false"])


def test_a_tokenizer_that_the_shards_were_not_made_with_is_refused_with_both_fingerprints(made_again, unbroken):
    other = made_again(["tokenizer"], tokenizer={"split_digits": False})
    made_with, found = (recipe.artifact("tokenizer").fingerprint[:12] for recipe in (unbroken, other))
    with pytest.raises(UserError, match=f"was made from tokenizer {made_with}, but .* is {found}; point artifacts.tok"):
        slm.train.run(other)


def test_redo_replaces_checkpoints_of_another_recipe(make_recipe):
    slm.train.run(make_recipe("again"))
    fresh = make_recipe("again", tokens=256).model_copy(update={"redo": True})
    assert slm.train.run(fresh).counts["step"] == 1


def test_old_checkpoints_are_pruned(unbroken):
    assert [path.name for path in step_folders(unbroken.folder("train"))] == ["step-00000012", "step-00000008"]
    assert (unbroken.folder("train") / "latest").read_text() == "step-00000012\n"


def test_going_on_in_another_precision_is_refused(make_recipe, monkeypatch, train_until_killed):
    recipe = make_recipe("precise", precision="auto")
    train_until_killed(recipe, "step", 6)
    checkpoint = step_folders(recipe.folder("train"))[0]
    trained = json.loads((checkpoint / "manifest.json").read_text())["counts"]["precision"]
    other = "fp32" if trained == "bf16" else "bf16"
    monkeypatch.setattr("slm.train.precision.resolve_precision", lambda *_: other)
    with pytest.raises(UserError, match=rf"was trained in {trained}.*set train\.precision={trained}"):
        slm.train.run(recipe)


def test_samples_are_written_at_each_evaluation_and_leave_the_weights_alone(make_recipe, unbroken, figures, hashes):
    recipe = make_recipe("sampling", sample_prompts=["def ", "class"])
    slm.train.run(recipe)
    samples = [row for row in figures(recipe) if row["kind"] == "sample"]
    assert [(row["step"], row["prompt"]) for row in samples] == [
        (step, prompt) for step in (5, 10, 12) for prompt in ("def ", "class")
    ]
    assert all(isinstance(row["text"], str) for row in samples)
    assert hashes(recipe) == hashes(unbroken)


def test_a_full_disk_during_a_save_is_one_sentence_and_keeps_the_last_checkpoint(
    make_recipe, small_disk, train_on_full_disk
):
    recipe = make_recipe("full", runs_dir=str(small_disk(1100)))  # room for two checkpoints, not three
    train_on_full_disk(recipe)


def test_a_run_with_a_budget_of_operations_ends_finished_at_it_and_anneals_as_any(make_recipe, unbroken):
    """The budget is the whole limit: the schedule comes down to its end, as if `tokens` had said it."""
    whole = plan(unbroken)
    made = slm.train.run(make_recipe("budget", max_flops=whole.flops * 0.51))
    assert made.counts["finished"]
    assert made.counts["step"] == whole.steps * 51 // 100
    rows = rows_of(make_recipe("budget"), "train")
    assert rows[-1]["lr"] < 0.5 * max(row["lr"] for row in rows)
