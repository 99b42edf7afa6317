"""Saving, restoring and choosing checkpoints; whole runs with kills are in test_loop.py."""

from __future__ import annotations

import json

import pytest
import torch

import slm.train
from slm.core.artifact import open_artifact
from slm.core.errors import DamagedError
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.train import loop
from slm.train.checkpoint import newest_sound, restore, save, step_folders


@pytest.fixture
def run(make_recipe, tmp_path) -> loop.Run:
    recipe: Recipe = make_recipe("checkpoints", runs_dir=str(tmp_path))
    return loop.prepare(recipe, slm.train.specification(recipe))


def advance(run: loop.Run) -> None:
    loop.forward_backward(run, run.state.loader.step(), 1.0)
    run.state.optimizer.step(1.0)
    run.state.step += 1
    run.state.tokens += 256


def test_a_checkpoint_holds_tensors_and_json_alone(run):
    advance(run)
    saved = save(run.folder, run.spec, run.state, 2, finished=False)
    assert {file.suffix for file in saved.path.iterdir()} == {".safetensors", ".json"}
    state = json.loads((saved.path / "state.json").read_text())
    assert (state["step"], state["tokens"], state["loader"]["row"]) == (1, 256, 8)
    assert saved.counts["step"] == 1


def test_its_model_opens_without_the_trainer(run):
    advance(run)
    saved = save(run.folder, run.spec, run.state, 2, finished=False)
    loaded = load_model(saved.path)
    for (name, mine), other in zip(run.state.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_restoring_gives_back_everything_that_shapes_the_next_step(run, make_recipe, tmp_path):
    advance(run)
    saved = save(run.folder, run.spec, run.state, 2, finished=False)
    torch.rand(3)
    advance(run)
    recipe = make_recipe("checkpoints", runs_dir=str(tmp_path / "other"))
    again = loop.prepare(recipe, run.spec)
    restore(saved, again.state)
    assert (again.state.step, again.state.tokens, again.state.loader.cursor.row) == (1, 256, 8)
    advance(again)
    for (name, mine), other in zip(
        run.state.model.named_parameters(), again.state.model.named_parameters(), strict=True
    ):
        assert torch.equal(mine, other[1]), name


def test_latest_names_the_newest_and_old_ones_go(run):
    for _ in range(4):
        advance(run)
        save(run.folder, run.spec, run.state, 2, finished=False)
    assert [path.name for path in step_folders(run.folder)] == ["step-00000004", "step-00000003"]
    assert (run.folder / "latest").read_text() == "step-00000004\n"


def test_damaged_checkpoints_keep_distinct_names(run, capsys):
    for _ in range(2):
        advance(run)
        saved = save(run.folder, run.spec, run.state, 1, finished=False)
        (saved.path / "optimizer.safetensors").write_bytes(b"")
        assert newest_sound(run.folder, run.spec, redo=False) is None
        run.state.step -= 1
    assert sorted(path.name for path in run.folder.glob("*.damaged*")) == [
        "step-00000001.damaged",
        "step-00000001.damaged-2",
    ]
    assert capsys.readouterr().out.count("set aside as") == 2


def test_a_folder_without_a_manifest_is_no_checkpoint(run):
    (run.folder / "step-00000009").mkdir()
    assert newest_sound(run.folder, run.spec, redo=False) is None


def test_state_that_fits_no_parameter_is_refused(run):
    advance(run)
    saved = save(run.folder, run.spec, run.state, 2, finished=False)
    with pytest.raises(DamagedError):
        run.state.optimizer.load_state_tensors({"muon.momentum_buffer.embedding.weight": torch.zeros(1)})
    assert open_artifact(saved.path, "train").fingerprint == saved.fingerprint
