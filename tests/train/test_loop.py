"""The loop: exact under kills, independent of micro-batches, and clear about bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import slm.train
from slm.core.artifact import file_sha256
from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.train import loop
from slm.train.checkpoint import step_folders
from slm.train.metrics import read_metrics

CLOCK = {"seconds", "tokens_per_second", "model_flops_per_second", "matmul_share", "mfu"}

KILLED_AT = """
import os, pathlib, shutil, signal, sys
from slm.recipe import Recipe
import slm.core.artifact as artifact
import slm.train, slm.train.loop as loop, slm.train.checkpoint as checkpoint

point, number = sys.argv[2], int(sys.argv[3])
seen = 0

def deadly(function, matches):
    def wrapped(*args, **kwargs):
        global seen
        if matches(*args):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

if point == "step":
    loop.forward_backward = deadly(loop.forward_backward, lambda *a: True)
elif point == "write":
    checkpoint.save_file = deadly(checkpoint.save_file, lambda *a: True)
elif point == "manifest":
    artifact.write_atomically = deadly(artifact.write_atomically, lambda path, text: path.name == "manifest.json")
elif point == "rename":
    artifact._replace = deadly(artifact._replace, lambda *a: True)
elif point == "latest":
    checkpoint.write_atomically = deadly(checkpoint.write_atomically, lambda path, text: path.name == "latest")
elif point == "prune":
    shutil.rmtree = deadly(shutil.rmtree, lambda path, **_: pathlib.Path(path).name.startswith("step-000000")
                           and pathlib.Path(path).suffix == "" and pathlib.Path(path).exists())
elif point == "evaluate":
    loop.Evaluator.__call__ = deadly(loop.Evaluator.__call__, lambda *a: True)
slm.train.run(Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text()))
print("survived")
"""


def train_until_killed(recipe: Recipe, tmp_path: Path, point: str, number: int) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(file), point, str(number)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def figures(recipe: Recipe) -> list[dict[str, object]]:
    rows = read_metrics(recipe.folder("train") / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def hashes(recipe: Recipe) -> dict[str, str]:
    checkpoint = recipe.artifact("train").path
    return {file.name: file_sha256(file) for file in checkpoint.iterdir() if file.name != "manifest.json"}


@pytest.fixture(scope="module")
def unbroken(make_recipe: Callable[..., Recipe]) -> Recipe:
    recipe = make_recipe("unbroken")
    slm.train.run(recipe)
    return recipe


def test_a_run_killed_at_every_point_equals_the_unbroken_one_bit_for_bit(make_recipe, unbroken, tmp_path):
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
        train_until_killed(recipe, tmp_path, point, number)
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    leftovers = [path.name for path in recipe.folder("train").iterdir() if "tmp" in path.name]
    assert leftovers == []


def test_losses_fall_and_every_step_is_logged_once(unbroken):
    rows = [row for row in figures(unbroken) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert [row["tokens"] for row in rows] == [step * 256 for step in range(1, 13)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5


def test_micro_batches_do_not_change_what_a_step_learns(make_recipe, unbroken):
    for rows in (1, 8):
        recipe = make_recipe(f"micro-{rows}", micro_batch_rows=rows)
        slm.train.run(recipe)
        pairs = zip(figures(recipe), figures(unbroken), strict=True)
        for mine, other in ((mine, other) for mine, other in pairs if "loss" in other):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_finished_run_does_nothing_the_second_time(unbroken, capsys, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("trained again"))
    again = slm.train.run(unbroken)
    assert again.counts["finished"]
    assert "train: up to date in" in capsys.readouterr().out


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(make_recipe, unbroken, tmp_path):
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
    assert done.returncode == 130
    assert "the same command goes on from where it was" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in step_folders(recipe.folder("train"))] == ["step-00000007"]
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(make_recipe, unbroken, tmp_path, capsys):
    recipe = make_recipe("damaged")
    train_until_killed(recipe, tmp_path, "step", 10)
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
def test_no_sound_checkpoint_left_starts_again_and_says_so(make_recipe, unbroken, tmp_path, capsys, how):
    recipe = make_recipe(f"hopeless-{how}")
    train_until_killed(recipe, tmp_path, "step", 6)
    (only,) = step_folders(recipe.folder("train"))
    weights = only / "model-00001-of-00001.safetensors"
    if how == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        weights.unlink()
    slm.train.run(recipe)
    assert "set aside as" in capsys.readouterr().out
    assert hashes(recipe) == hashes(unbroken)


def test_checkpoints_of_another_recipe_are_refused_with_both_values(make_recipe, unbroken):
    other = make_recipe("unbroken", batch_tokens=512, tokens=12 * 512)
    with pytest.raises(UserError, match=r"train\.batch_tokens: 256 -> 512.*choose another run=NAME.*redo=true"):
        slm.train.run(other)
    assert unbroken.artifact("train").counts["finished"]


def test_redo_replaces_checkpoints_of_another_recipe(make_recipe):
    slm.train.run(make_recipe("again"))
    fresh = make_recipe("again", tokens=256).model_copy(update={"redo": True})
    assert slm.train.run(fresh).counts["step"] == 1


def test_old_checkpoints_are_pruned(unbroken):
    assert [path.name for path in step_folders(unbroken.folder("train"))] == ["step-00000012", "step-00000008"]
    assert (unbroken.folder("train") / "latest").read_text() == "step-00000012\n"


def test_going_on_in_another_precision_is_refused(make_recipe, tmp_path, monkeypatch):
    recipe = make_recipe("precise", precision="auto")
    train_until_killed(recipe, tmp_path, "step", 6)
    checkpoint = step_folders(recipe.folder("train"))[0]
    trained = json.loads((checkpoint / "manifest.json").read_text())["counts"]["precision"]
    other = "fp32" if trained == "bf16" else "bf16"
    monkeypatch.setattr(loop, "resolve_precision", lambda *_: other)
    with pytest.raises(UserError, match=rf"was trained in {trained}.*set train\.precision={trained}"):
        slm.train.run(recipe)


def test_samples_are_written_at_each_evaluation_and_leave_the_weights_alone(make_recipe, unbroken):
    recipe = make_recipe("sampling", sample_prompts=["def ", "class"])
    slm.train.run(recipe)
    samples = [row for row in figures(recipe) if row["kind"] == "sample"]
    assert [(row["step"], row["prompt"]) for row in samples] == [
        (step, prompt) for step in (5, 10, 12) for prompt in ("def ", "class")
    ]
    assert all(isinstance(row["text"], str) for row in samples)
    assert hashes(recipe) == hashes(unbroken)


def test_a_full_disk_during_a_save_is_one_sentence_and_keeps_the_last_checkpoint(make_recipe, small_disk, tmp_path):
    recipe = make_recipe("full", runs_dir=str(small_disk(1100)))  # room for two checkpoints, not three
    program = (
        "import sys, pathlib\n"
        "import slm.train\n"
        "from slm.compose import guarded\n"
        "from slm.recipe import Recipe\n"
        "recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        "guarded(lambda: slm.train.run(recipe))\n"
    )
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: the disk filled up while writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert recipe.artifact("train").counts["step"] == 8
