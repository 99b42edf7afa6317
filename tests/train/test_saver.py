"""Saving behind the steps: the same bits, a short stall, one save at a time, errors that reach the loop."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import slm.train
from slm.core.errors import UserError
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.train import loop
from slm.train import saver as module
from slm.train.checkpoint import step_folders
from slm.train.ledger import behind, read_ledger

ASYNCHRONOUS = {"asynchronous": True}


def test_a_run_that_saves_behind_the_steps_equals_the_unbroken_one(make_recipe, unbroken, figures, hashes, capsys):
    recipe = make_recipe("asynchronous", checkpoints=ASYNCHRONOUS)
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    assert [path.name for path in step_folders(recipe.folder("train"))] == ["step-00000012", "step-00000008"]
    assert (recipe.folder("train") / "latest").read_text() == "step-00000012\n"
    told = behind(read_ledger(recipe.folder("train")))
    assert told["saves"] == 3
    assert 0 < told["stall_seconds"] < told["save_seconds"]
    assert "train: 3 saves took" in capsys.readouterr().out


@pytest.fixture
def large(make_recipe, tmp_path) -> loop.Run:
    """A run of 8 million parameters after one step: 100 MB of state."""
    recipe: Recipe = make_recipe("large", runs_dir=str(tmp_path), checkpoints=ASYNCHRONOUS)
    shape = {"width": 512, "heads": 8, "kv_heads": 8, "head_dim": 64, "ffn_width": 1920}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=shape)})
    run = loop.prepare(recipe, slm.train.specification(recipe))
    step(run)
    return run


def step(run: loop.Run) -> None:
    loop.forward_backward(run, run.state.loader.step()[:1], 1.0)
    run.state.optimizer.step(1.0)
    run.state.step += 1


def test_the_steps_wait_for_a_twentieth_of_a_save_at_most(large):
    """Each save while steps go on, as in a run; the first, which makes the buffers, is left out."""
    stalls, saves = [], []
    for _ in range(7):
        large.saver.save(large.state, {"finished": False})
        while large.saver._thread.is_alive():
            step(large)
        large.saver.wait()
        stalls.append(large.saver._stall_seconds)
        saves.append(large.saver._seconds)
    stored = sum(file.stat().st_size for file in large.saver.wait().path.iterdir())
    assert stored > 95e6
    stall, save = statistics.median(stalls[1:]), statistics.median(saves[1:])
    print(f"\n{stored / 1e6:.0f} MB: stall {1e3 * stall:.1f} ms of {1e3 * save:.0f} ms, {100 * stall / save:.1f} %")
    assert stall <= 0.05 * save


def test_what_is_written_is_the_state_at_the_save_whatever_the_steps_do_meanwhile(make_recipe, monkeypatch):
    recipe = make_recipe("snapshot", checkpoints=ASYNCHRONOUS)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    step(run)
    go_on, honest = threading.Event(), module.publish

    def slow(*arguments: Any) -> Any:
        assert go_on.wait(20)
        return honest(*arguments)

    monkeypatch.setattr(module, "publish", slow)
    before = {name: tensor.clone() for name, tensor in run.state.model.state_dict().items()}
    for _ in range(2):  # the second time in the buffers of the first
        run.saver.save(run.state, {"finished": False})
        assert not step_folders(run.folder) or step_folders(run.folder)[0].name < f"step-{run.saver.step:08d}"
        with torch.no_grad():
            for parameter in run.state.model.parameters():
                parameter.zero_()
        go_on.set()
        saved = load_model(run.saver.wait().path).state_dict()
        assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())
        go_on.clear()
        run.state.model.load_state_dict(before)
        run.state.step += 1


@pytest.mark.parametrize("asynchronous", [False, True], ids=["at once", "behind the steps"])
def test_nothing_is_published_before_a_power_cut_would_spare_it(make_recipe, tmp_path, disk, asynchronous):
    """Every file flushed, then the checkpoint's name, then `latest`; leaving out any one of the flushes is noticed."""
    recipe = make_recipe("durable", runs_dir=str(tmp_path / "runs"), checkpoints={"asynchronous": asynchronous})
    run = loop.prepare(recipe, slm.train.specification(recipe))
    disk.threads.clear()  # of what prepares the run
    needed = 0
    for left_out in range(14):
        step(run)
        before, disk.problems, disk.left_out = disk.flushes, [], disk.flushes + left_out if left_out else 0
        run.saver.save(run.state, {"finished": False})
        saved = run.saver.wait()
        noticed = [*disk.problems, *disk.lost(saved.path), *disk.lost(run.folder / "latest")]
        assert (run.folder / "latest").read_text() == f"{saved.path.name}\n"
        assert bool(noticed) is (0 < left_out <= needed), noticed
        needed = needed or disk.flushes - before
    assert needed == len(saved.manifest["files"]) + 2 + 1 + 2  # the manifest and the draft, the place, `latest` and it
    assert disk.threads == {"save" if asynchronous else threading.current_thread().name}


def test_a_save_waits_for_the_one_before_it(make_recipe, monkeypatch):
    recipe = make_recipe("queue", checkpoints=ASYNCHRONOUS)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    open_now, most, honest = [], [], module.publish

    def counted(*arguments: Any) -> Any:
        open_now.append(1)
        most.append(len(open_now))
        time.sleep(0.1)
        artifact = honest(*arguments)
        open_now.pop()
        return artifact

    monkeypatch.setattr(module, "publish", counted)
    for _ in range(3):
        step(run)
        run.saver.save(run.state, {"finished": False})
    assert run.saver.wait().counts["step"] == 3
    assert most == [1, 1, 1]


def test_what_goes_wrong_in_a_save_is_raised_before_the_next_step(make_recipe, monkeypatch):
    recipe = make_recipe("wrong", checkpoints=ASYNCHRONOUS)
    run = loop.prepare(recipe, slm.train.specification(recipe))

    def full(*_: Any) -> Any:
        raise UserError("the disk filled up")

    monkeypatch.setattr(module, "publish", full)
    step(run)
    run.saver.save(run.state, {"finished": False})
    run.saver._thread.join()
    with pytest.raises(UserError, match="the disk filled up"):
        run.saver.look()
    run.saver.look()
    assert run.stop._saved, "its seconds are booked"


def test_a_disk_that_fills_in_the_thread_ends_the_run_in_the_same_sentence(make_recipe, small_disk, train_on_full_disk):
    recipe = make_recipe("full-behind", runs_dir=str(small_disk(1100)), checkpoints=ASYNCHRONOUS)
    train_on_full_disk(recipe)
    assert [path.name for path in Path(recipe.folder("train")).iterdir() if "tmp" in path.name] == []
