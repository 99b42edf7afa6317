"""Saving, restoring and choosing checkpoints; whole runs with kills are in test_loop.py."""

from __future__ import annotations

import json

import pytest
import torch

import slm.train
from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import DamagedError
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.train import loop
from slm.train.checkpoint import age, leads_to, make_newest, newest_sound, prune, restore, step_folders
from slm.train.config import CheckpointConfig
from slm.train.saver import Saver


@pytest.fixture
def run(make_recipe, tmp_path) -> loop.Run:
    recipe: Recipe = make_recipe("checkpoints", runs_dir=str(tmp_path))
    return loop.prepare(recipe, slm.train.specification(recipe))


def advance(run: loop.Run) -> None:
    loop.forward_backward(run, run.state.loader.step(), 1.0)
    run.state.optimizer.step(1.0)
    run.state.step += 1
    run.state.tokens += 256


def save(run: loop.Run, rewinds: tuple[int, ...] = (), **settings: int) -> Artifact:
    saver = Saver(run.folder, run.spec, CheckpointConfig(**settings), run.ledger, run.stop)
    saver.save(run.state, {"finished": False, "rewinds": list(rewinds)})
    return saver.wait()


def test_a_checkpoint_holds_tensors_and_json_alone(run):
    advance(run)
    saved = save(run)
    assert {file.suffix for file in saved.path.iterdir()} == {".safetensors", ".json"}
    state = json.loads((saved.path / "state.json").read_text())
    assert (state["step"], state["tokens"], state["loader"]["row"]) == (1, 256, 8)
    assert saved.counts["step"] == 1


def test_its_model_opens_without_the_trainer(run):
    advance(run)
    saved = save(run)
    loaded = load_model(saved.path)
    for (name, mine), other in zip(run.state.model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_restoring_gives_back_everything_that_shapes_the_next_step(run, make_recipe, tmp_path):
    advance(run)
    torch.rand(5)  # so that the generator is not where every run begins
    saved, generator = save(run), torch.get_rng_state()
    torch.rand(3)
    advance(run)
    recipe = make_recipe("checkpoints", runs_dir=str(tmp_path / "other"))
    again = loop.prepare(recipe, run.spec)
    restore(saved, again.state)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (again.state.step, again.state.tokens, again.state.loader.cursor.row) == (1, 256, 8)
    advance(again)
    for (name, mine), other in zip(
        run.state.model.named_parameters(), again.state.model.named_parameters(), strict=True
    ):
        assert torch.equal(mine, other[1]), name


def test_a_checkpoint_from_before_the_first_step_that_changed_the_weights_can_be_gone_on_from(
    run, make_recipe, tmp_path
):
    run.state.step = 1  # the guard left it out, so the optimizer has no state
    saved = save(run)
    again = loop.prepare(make_recipe("checkpoints", runs_dir=str(tmp_path / "other")), run.spec)
    restore(saved, again.state)
    assert again.state.step == 1
    assert again.state.optimizer.state_tensors() == {}


def test_what_killed_saves_and_deletions_left_is_removed_at_the_next_start(run):
    advance(run)
    saved = save(run)
    half, draft = run.folder / "step-00000007", run.folder / "step-00000009.tmp-999999999"
    for leftover in (half, draft):
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"x")
    assert newest_sound(run.folder, run.spec, redo=False) == saved
    assert not half.exists()
    assert not draft.exists()


def test_latest_names_the_newest_and_old_ones_go(run):
    for _ in range(4):
        advance(run)
        save(run)
    assert [path.name for path in step_folders(run.folder)] == ["step-00000004", "step-00000003"]
    assert (run.folder / "latest").read_text() == "step-00000004\n"


def test_milestones_are_kept_for_good(run):
    for _ in range(6):
        advance(run)
        save(run, keep_last=1, keep_every_steps=2)
    assert [path.name[-1] for path in step_folders(run.folder)] == ["6", "4", "2"]


def test_nothing_is_deleted_unless_one_that_stays_verifies(run, capsys):
    for _ in range(3):
        advance(run)
        newest = save(run, keep_last=3)
    weights = newest.path / "model-00001-of-00001.safetensors"
    content = bytearray(weights.read_bytes())
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    prune(run.folder, CheckpointConfig(keep_last=1))
    assert len(step_folders(run.folder)) == 3
    assert "no checkpoint that would stay" in capsys.readouterr().out
    prune(run.folder, CheckpointConfig(keep_last=2), spare=None)
    assert [path.name[-1] for path in step_folders(run.folder)] == ["3", "2"]


def test_what_is_spared_stays(run):
    for _ in range(3):
        advance(run)
        save(run, keep_last=9)
    oldest = run.folder / "step-00000001"
    prune(run.folder, CheckpointConfig(keep_last=1), spare=oldest)
    assert [path.name[-1] for path in step_folders(run.folder)] == ["3", "1"]


def test_a_rewind_makes_lower_steps_newer_and_leaves_behind_those_after_its_target():
    """A run that came to steps 4, 8 and 12, was rewound to 8, came to 10, 12 and 16, was rewound to 12, came to 14."""
    came = [(4, []), (8, []), (12, []), (10, [8]), (12, [8]), (16, [8]), (14, [8, 12])]
    counts = [{"step": step, "rewinds": rewinds} for step, rewinds in came]
    assert sorted([*counts[3:], *counts[:3]], key=age) == counts
    assert [leads_to(each, counts[-1]) for each in counts] == [True, True, False, True, True, False, True]
    assert [leads_to(each, counts[2]) for each in counts] == [True, True, True, False, False, False, False]
    assert leads_to({"step": 8}, {"step": 9})  # saved before rewinds were counted


def test_making_one_the_newest_deletes_what_the_run_did_not_come_through(run):
    saved = {}
    for step, rewinds in [(4, ()), (12, ()), (10, (8,)), (16, (8,)), (20, (8,))]:
        run.state.step = step
        saved[step] = save(run, rewinds, keep_last=9)
    (saved[10].path / "state.json").write_bytes(b"")
    make_newest(run.folder, saved[16])
    assert [int(path.name[5:]) for path in step_folders(run.folder)] == [16, 10, 4]
    assert (run.folder / "latest").read_text() == "step-00000016\n"
    assert newest_sound(run.folder, run.spec, redo=False) == saved[16]
    make_newest(run.folder, saved[4])
    assert [int(path.name[5:]) for path in step_folders(run.folder)] == [4]


def test_damaged_checkpoints_keep_distinct_names(run, capsys):
    for _ in range(2):
        advance(run)
        saved = save(run, keep_last=1)
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
    saved = save(run)
    with pytest.raises(DamagedError):
        run.state.optimizer.load_state_tensors({"muon.momentum_buffer.embedding.weight": torch.zeros(1)})
    assert open_artifact(saved.path, "train").fingerprint == saved.fingerprint


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_damage_to_any_file_sets_it_aside_and_the_one_before_is_taken(run, capsys, how):
    """Every file of a checkpoint with everything in it: average, optimizer, generator, state, manifest."""
    for _ in range(2):
        advance(run)
        run.state.average = run.state.model
        newest = save(run)
    names = [*newest.manifest["files"], "manifest.json"]
    assert len(names) == 8
    for name in names:
        honest = (newest.path / name).read_bytes()
        middle = len(honest) // 2
        flipped = honest[:middle] + bytes([honest[middle] ^ 1]) + honest[middle + 1 :]
        (newest.path / name).write_bytes(honest[:middle] if how == "truncated" else flipped)
        assert newest_sound(run.folder, run.spec, redo=False).counts["step"] == 1, name
        assert f"set aside as {newest.path.name}.damaged" in capsys.readouterr().out
        newest.path.with_name(f"{newest.path.name}.damaged").rename(newest.path)
        (newest.path / name).write_bytes(honest)
    assert newest_sound(run.folder, run.spec, redo=False).counts["step"] == 2
