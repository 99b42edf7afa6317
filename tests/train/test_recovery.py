"""Poisoned rows in the stream: left out, rewound past, written up; and every stop on the way resumes exactly."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import slm.shards
import slm.train
from slm.core.errors import Stopped, UserError
from slm.core.store import Store
from slm.corpus import read_documents
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.shards.loader import Loader
from slm.shards.reader import ShardReader
from slm.shards.write import ShardWriter
from slm.train import loop
from slm.train.checkpoint import step_folders
from tests.train.readings import figures, hashes

STEP_ROWS = 8
GUARD = {"window": 8, "warm_in": 5, "max_skips": 3}
Poison = Callable[..., None]


@pytest.fixture
def poison(make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> Poison:
    """`poison([10, 11])`: the rows that steps 10 and 11 of the stream come to hold one token, over and over."""
    recipe = make_recipe("poison")
    loader = loop.prepare(recipe, slm.train.specification(recipe)).state.loader
    honest = ShardReader.rows

    def plant(steps: list[int], token: int = 390) -> None:
        bad = {row for step in steps for row in loader.rows_at((step - 1) * STEP_ROWS, STEP_ROWS)}

        def rows(self: ShardReader, indices: Any) -> tuple[Any, Any]:
            tokens_NT, lengths = honest(self, indices)
            if "validation" not in self.ranges:
                tokens_NT[np.isin(np.asarray(indices), list(bad))] = token
            return tokens_NT, lengths

        monkeypatch.setattr(ShardReader, "rows", rows)

    return plant


@pytest.fixture
def sick_objective(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the loss of every batch with a poisoned row the given number, gradients included."""
    honest = loop.build_objective

    def set_value(value: float) -> None:
        def build(config: Any) -> Any:
            objective = honest(config)

            def sick(model: Any, batch: Any) -> Any:
                loss = objective(model, batch)
                if bool((batch.tokens_BT == 390).all(dim=1).any()):
                    loss.nats_sum, loss.cross_entropy_sum = loss.nats_sum * value, loss.cross_entropy_sum * value
                return loss

            return sick

        monkeypatch.setattr(loop, "build_objective", build)

    return set_value


def recipe_for(make_recipe: Callable[..., Recipe], run: str, **train: object) -> Recipe:
    values = {"tokens": 20 * 256, "evaluate_every_steps": 0, "guard": GUARD, **train}
    return make_recipe(run, **values)


def of_kind(recipe: Recipe, kind: str) -> list[dict[str, Any]]:
    return [row for row in figures(recipe) if row["kind"] == kind]


def weights(recipe: Recipe) -> dict[str, str]:
    return {name: digest for name, digest in hashes(recipe).items() if name.endswith(".safetensors")}


def test_a_clean_run_is_the_same_with_and_without_the_guard(make_recipe):
    on, off = (
        recipe_for(make_recipe, f"guard-{enabled}", guard={**GUARD, "enabled": enabled}) for enabled in (True, False)
    )
    slm.train.run(on)
    slm.train.run(off)
    assert weights(on) == weights(off)
    assert figures(on) == figures(off)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_left_out_and_counted(make_recipe, poison, sick_objective, value, capsys):
    poison([3])
    sick_objective(value)
    recipe = recipe_for(make_recipe, f"not-finite-{value}", tokens=6 * 256)
    run = loop.train(recipe, slm.train.specification(recipe))
    (skip,) = of_kind(recipe, "skip")
    assert (skip["step"], skip["first_row"], skip["end_row"], skip["loss"]) == (3, 16, 24, str(value))
    assert [row["step"] for row in of_kind(recipe, "train")] == [1, 2, 4, 5, 6]
    assert all(math.isfinite(row["loss"]) for row in of_kind(recipe, "train"))
    state = json.loads(run.file("state.json").read_text())
    assert (state["step"], state["loader"]["row"], state["guard"]["skipped"]) == (6, 48, 1)
    assert "step 3 left out (not finite: loss" in capsys.readouterr().out
    assert all(bool(tensor.isfinite().all()) for tensor in load_model(run.path).parameters())


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What each step from now on finds: weights, their average, the optimizer's state and the generator's."""
    honest, states = loop.forward_backward, []

    def watching(run: Any, *rest: Any) -> Any:
        state = run.state
        groups = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_tensors()}
        groups["average"] = state.average.state_dict() if state.average is not None else {}
        tensors = {(group, name): tensor.clone() for group, found in groups.items() for name, tensor in found.items()}
        states.append(tensors | {("generator", ""): torch.get_rng_state()})
        return honest(run, *rest)

    monkeypatch.setattr(loop, "forward_backward", watching)
    return states


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """The groups of tensors that are not the same in both."""
    assert one.keys() == other.keys()
    return {name[0] for name, tensor in one.items() if not torch.equal(tensor, other[name])}


def test_a_planted_poisoned_step_spikes_and_does_not_touch_the_weights(make_recipe, poison, found):
    poison([12])
    recipe = recipe_for(make_recipe, "spike", ema_decay=0.9)
    slm.train.run(recipe)
    (skip,) = of_kind(recipe, "skip")
    assert skip["step"] == 12
    assert skip["reason"].startswith("spike: ")
    assert not of_kind(recipe, "rewind")
    assert len(found) == 20
    for step in range(2, 20):  # before the first step the optimizer has no state
        changed = {"model", "optimizer", "average"} if step != 12 else set()
        assert differing(found[step - 1], found[step]) == changed, step


@pytest.fixture
def poisoned_shards(make_recipe, tmp_path, monkeypatch) -> Callable[[list[int]], tuple[str, list[int]]]:
    """`poisoned_shards([30, 31])`: shards on disk whose rows of these steps hold random ids, and which rows those are.

    The real stage writes them; only what its writer is given for those rows is changed.
    """

    def make(steps: list[int]) -> tuple[str, list[int]]:
        recipe = make_recipe("poisoned", runs_dir=str(tmp_path))
        loader = Loader(recipe.artifact("shards"), batch_rows=STEP_ROWS, micro_batch_rows=4, seed=recipe.seed)
        bad = [row for step in steps for row in loader.rows_at((step - 1) * STEP_ROWS, STEP_ROWS)]
        honest, written, source = ShardWriter._write, 0, np.random.default_rng(0)

        def write(self: ShardWriter, tokens_RT: Any, *rest: Any) -> None:
            nonlocal written
            if self._stem.startswith("train"):
                chosen = np.isin(np.arange(written, written + len(tokens_RT)), bad)
                tokens_RT[chosen] = source.integers(6, recipe.model.vocab_size, (chosen.sum(), tokens_RT.shape[1]))
                written += len(tokens_RT)
            honest(self, tokens_RT, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "_write", write)
            made = recipe.model_copy(update={"artifacts": recipe.artifacts.model_copy(update={"shards": ""})})
            slm.shards.run(made)
        assert made.artifact("shards").counts == recipe.artifact("shards").counts
        assert made.artifact("shards").fingerprint != recipe.artifact("shards").fingerprint
        return str(made.folder("shards")), bad

    return make


def test_a_poisoned_shard_on_disk_is_skipped_rewound_past_and_written_up(make_recipe, poisoned_shards, found):
    folder, bad = poisoned_shards([30, 31, 32])
    recipe = recipe_for(make_recipe, "on-disk", tokens=40 * 256)
    honest = ShardReader(recipe.artifact("shards"), "train")
    recipe = recipe.model_copy(update={"artifacts": recipe.artifacts.model_copy(update={"shards": folder})})
    slm.train.run(recipe)
    assert [row["step"] for row in of_kind(recipe, "skip")] == [30, 31, 32]
    (back,) = of_kind(recipe, "rewind")
    assert (back["step"], back["to_step"]) == (32, 28)
    assert (back["first_row"], back["end_row"]) == (29 * STEP_ROWS, 32 * STEP_ROWS)
    assert differing(found[29], found[30]) == differing(found[30], found[31]) == set()
    assert differing(found[28], found[32]) == set(), "after the rewind it goes on from step 28"
    highest = max(row["loss"] for row in of_kind(recipe, "train") if row["step"] > 28)
    assert highest < min(row["loss"] for row in of_kind(recipe, "skip"))

    report = json.loads((recipe.folder("train") / back["autopsy"]).read_text())
    assert [row["shard_row"] for row in report["rows"]] == bad
    assert [row["documents"] for row in report["rows"]] == [honest.documents(row) for row in bad]
    known = {document.id for document in read_documents(recipe.artifact("corpus"), "train")}
    assert all(row["documents"] and set(row["documents"]) <= known for row in report["rows"])
    assert report["grad_norms"].keys() == dict(load_model(recipe.artifact("train").path).named_parameters()).keys()
    assert all(0 < norm < math.inf for norm in report["grad_norms"].values())
    last = [row["loss"] for row in report["rows"] if "loss" in row]
    assert len(last) == STEP_ROWS
    assert min(last) > highest


@pytest.fixture
def rewound(make_recipe: Callable[..., Recipe], poison: Poison) -> Recipe:
    """A run that skips step 7, and rewinds from 13 to 8."""
    poison([7, 11, 12, 13])
    recipe = recipe_for(make_recipe, "rewound")
    shutil.rmtree(recipe.folder("train"), ignore_errors=True)
    slm.train.run(recipe)
    return recipe


def test_a_row_of_skips_rewinds_past_the_offending_rows_and_the_run_ends_well(rewound):
    assert [row["step"] for row in of_kind(rewound, "skip")] == [7, 11, 12, 13]
    (back,) = of_kind(rewound, "rewind")
    assert (back["step"], back["to_step"], back["first_row"], back["end_row"]) == (13, 8, 80, 104)
    train = of_kind(rewound, "train")
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6, 8, 9, 10, *range(9, 21)]
    assert all("rewinds" not in row for row in train[:9])
    assert all(row["rewinds"] == 1 for row in train[9:])
    state = json.loads(rewound.artifact("train").file("state.json").read_text())
    assert state["loader"]["row"] == 104 + 12 * STEP_ROWS
    assert sum(state["loader"]["sources"].values()) == state["loader"]["row"]
    assert state["guard"]["rewinds"] == [8]
    assert state["guard"]["skipped"] == 4


def test_the_autopsy_names_the_rows_their_texts_and_the_layers(rewound):
    (back,) = of_kind(rewound, "rewind")
    report = json.loads((rewound.folder("train") / back["autopsy"]).read_text())
    assert [(step["step"], step["first_row"]) for step in report["steps"]] == [(11, 80), (12, 88), (13, 96)]
    assert [row["row"] for row in report["rows"]] == list(range(80, 104))
    assert len({row["shard_row"] for row in report["rows"]}) == 24
    assert all(row["source"] and row["texts"] for row in report["rows"])
    known = {document.id for document in read_documents(rewound.artifact("corpus"), "train")}
    for row in report["rows"]:
        assert len(row["documents"]) >= len(row["texts"]) > 0
        assert set(row["documents"]) <= known
    assert [row["row"] for row in report["rows"] if "loss" in row] == list(range(96, 104))
    assert {"embedding.weight", "blocks.1.ffn.down.weight"} < set(report["grad_norms"])
    total = math.sqrt(sum(norm**2 for norm in report["grad_norms"].values()))
    assert total == pytest.approx(report["steps"][-1]["grad_norm"], rel=1e-4)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process is used afterwards."""


@pytest.mark.parametrize(
    "kills",
    [
        [("die", 8), ("die", 4), ("die", 4)],  # after the skip; in the row of skips; after the rewind
        [("die", 14), ("die", 9)],  # after the rewind, before the next save; after the save
        [("stop", 12), ("stop", 1), ("stop", 4)],  # asked to stop in the row of skips, twice; then after the rewind
        [("stop", 10), ("die", 2)],  # a checkpoint that the unbroken run lacks must not be rewound to
    ],
)
def test_a_run_with_skips_and_a_rewind_resumes_bit_for_bit(make_recipe, rewound, monkeypatch, kills):
    recipe = recipe_for(
        make_recipe,
        f"killed-{kills[0][0]}-{kills[0][1]}",
        checkpoints={"keep_last": 1, "asynchronous": kills[0][0] == "stop"},
    )
    honest = loop.forward_backward
    for how, number in kills:
        count = 0

        def deadly(*arguments: Any, how: str = how, number: int = number) -> Any:
            nonlocal count
            count += 1
            if count == number and how == "die":
                raise Killed
            if count == number:
                os.kill(os.getpid(), signal.SIGINT)
            return honest(*arguments)

        monkeypatch.setattr(loop, "forward_backward", deadly)
        with pytest.raises((Killed, KeyboardInterrupt)):
            slm.train.run(recipe)
    monkeypatch.setattr(loop, "forward_backward", honest)
    slm.train.run(recipe)
    assert figures(recipe) == figures(rewound)
    assert hashes(recipe) == hashes(rewound)


def end_at(recipe: Recipe, number: int, how: type[BaseException], monkeypatch: pytest.MonkeyPatch, ready: Any) -> None:
    """Train until, at the `number`-th step from here, the run is killed once `ready()`, or else told to stop."""
    honest, count = loop.forward_backward, 0

    def ending(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and how is Killed:
            until = time.monotonic() + 30
            while not ready():
                assert time.monotonic() < until
                time.sleep(0.01)
            raise Killed
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_backward", ending)
        with pytest.raises(how):
            slm.train.run(recipe)


@pytest.mark.parametrize("place", ["fresh", "old"])
def test_a_run_that_moves_to_another_machine_on_both_sides_of_a_rewind_resumes_bit_for_bit(
    make_recipe, rewound, tmp_path, monkeypatch, capsys, place
):
    """Told to stop in the row of skips, killed, and told to stop after the rewind, with what that forgot in the bucket.

    The last machine has nothing of the run, or what was there before the rewind.
    """
    address = f"file://{tmp_path}/bucket"
    recipe = recipe_for(make_recipe, f"moved-{place}", checkpoints={"remote": address})
    folder, store = recipe.folder("train"), Store(f"{address}/{recipe.run}/train")
    old = folder.with_name("old")

    def there() -> list[int]:
        return [int(name[5:]) for name in store.published()]

    with monkeypatch.context() as lazy:
        lazy.setattr(Store, "prune", lambda *_: [])  # as if each process had ended before it
        end_at(recipe, 10, Stopped, monkeypatch, there)  # its checkpoint is none to rewind to
        assert there()[:2] == [10, 8]
        shutil.rmtree(folder)
        end_at(recipe, 3, Killed, monkeypatch, lambda: there()[0] == 12)  # in step 13
        said = capsys.readouterr().out
        assert "train: fetched step-00000010" in said
        assert "train: fetched step-00000008" in said
        shutil.copytree(folder, old)
        end_at(recipe, 3, Stopped, monkeypatch, there)  # step 13, the rewind to 8, and 9; then in step 10
        assert there()[:3] == [12, 10, 8]
        shutil.rmtree(folder)
    if place == "old":
        old.rename(folder)
        assert [int(path.name[5:]) for path in step_folders(folder)] == [12, 10, 8]
    capsys.readouterr()
    slm.train.run(recipe)
    assert f"going on from {folder}/step-00000010 (step 10 of 20)" in capsys.readouterr().out
    assert figures(recipe) == figures(rewound)
    assert hashes(recipe) == hashes(rewound)
    assert there()[0] == 20
    assert set(there()) <= {20, 16, 12}  # with what was not yet pruned here when the last was uploaded


def test_a_second_rewind_to_the_same_place_ends_in_one_sentence(make_recipe, poison):
    poison([*range(11, 20)])
    recipe = recipe_for(make_recipe, "hopeless")
    with pytest.raises(
        UserError, match=r"3 steps in a row were refused up to step 11 .* rewound to step 8 once before"
    ):
        slm.train.run(recipe)
    assert len(list(recipe.folder("train").glob("autopsy-*.json"))) == 2
    assert step_folders(recipe.folder("train"))[0].name == "step-00000008"


def test_without_a_checkpoint_to_rewind_to_the_run_ends_in_one_sentence(make_recipe, poison, sick_objective):
    poison([1, 2, 3])
    sick_objective(math.nan)
    with pytest.raises(UserError, match=r"up to step 3 .*no checkpoint to rewind to; see .*autopsy-00000003-1\.json"):
        slm.train.run(recipe_for(make_recipe, "early"))
