"""A store is made file by file, the same bytes whoever made them and however often it was killed; or it is refused."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slm.distill
from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.core.lineage import lineage
from slm.distill import write
from slm.distill.write import Writer
from slm.recipe import Recipe, build_recipe

MakeRecipe = Callable[..., Recipe]


def hashes(store: Artifact | None) -> dict[str, str]:
    assert store is not None
    return {name: record["sha256"] for name, record in store.manifest["files"].items()}


def units(recipe: Recipe) -> Path:
    return recipe.folder("distill").with_name("distill.units")


def test_a_store_says_what_it_holds_and_what_it_is_made_from(stored: Artifact, teacher: Recipe) -> None:
    counts = stored.counts
    shards = teacher.artifact("shards")
    assert counts["rows"] == shards.counts["train"]["rows"] > 2 * counts["rows_per_file"] == 40
    assert counts["targets"] == shards.counts["train"]["targets"]
    assert len(counts["files"]) == -(-counts["rows"] // 20)
    assert counts["bytes_per_token"] < 64
    assert 0 < counts["mean_entropy_nats"] < 6
    parents = stored.manifest["parents"]
    assert {name: parent["fingerprint"] for name, parent in parents.items()} == {
        "teacher": teacher.artifact("train").fingerprint,
        "shards": shards.fingerprint,
        "tokenizer": teacher.artifact("tokenizer").fingerprint,
    }
    assert "corpus" in [one.kind for _, one in lineage(stored.path) if isinstance(one, Artifact)]
    assert not units(teacher).exists()


def test_it_is_not_made_twice(stored: Artifact, recipe_of: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(write, "Writer")
    again, elsewhere = recipe_of("stored"), recipe_of("taken", artifacts={"distill": str(stored.path)})
    for recipe in (again, elsewhere):
        found = slm.distill.run(recipe)
        assert found is not None
        assert found.fingerprint == stored.fingerprint


@pytest.mark.parametrize("death", [1, 4])
def test_a_killed_run_goes_on_at_the_file_that_is_missing_and_comes_to_the_same_bytes(
    stored: Artifact, recipe_of: MakeRecipe, monkeypatch: pytest.MonkeyPatch, death: int
) -> None:
    recipe, asked = recipe_of(f"killed-{death}"), []
    honest = Writer._ask

    def dying(self: Writer, rows: range, *rest: Any) -> tuple[int, float]:
        asked.append(rows.start)
        if len(asked) == death * 5 + 3:  # in the middle of a file of five batches
            raise KeyboardInterrupt
        return honest(self, rows, *rest)

    monkeypatch.setattr(Writer, "_ask", dying)
    with pytest.raises(KeyboardInterrupt):
        slm.distill.run(recipe)
    assert not recipe.folder("distill").exists()
    assert len(list(units(recipe).iterdir())) == death
    again = slm.distill.run(recipe)
    assert hashes(again) == hashes(stored)
    assert asked.count(0) == 1
    assert not units(recipe).exists()


def test_parts_make_what_one_makes(stored: Artifact, recipe_of: MakeRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of("parts", part="1/2")
    assert slm.distill.run(recipe) is None
    assert "part 1/2 is made, " in capsys.readouterr().out
    assert hashes(slm.distill.run(recipe_of("parts"))) == hashes(stored)
    assert slm.distill.run(recipe) is None
    assert "part 1/2 has nothing to do, the store is there" in capsys.readouterr().out
    assert not units(recipe).exists()


def test_a_disk_that_fills_leaves_the_finished_files_and_no_other(
    stored: Artifact, recipe_of: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, honest, written = recipe_of("full"), write.write_rows, []

    def full(path: Path, *rest: Any) -> None:
        honest(path, *rest)
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "write_rows", full)
    with pytest.raises(
        UserError, match=r"the disk filled up while writing .*full/distill .*run the same command again"
    ):
        slm.distill.run(recipe)
    assert not recipe.folder("distill").exists()
    assert [path.suffix for path in units(recipe).iterdir()] == ["", ""]  # no draft
    assert hashes(slm.distill.run(recipe)) == hashes(stored)
    written.clear()
    with pytest.raises(
        UserError, match=r"No space left on device while the store was written to .*part/distill\.units"
    ):
        slm.distill.run(recipe_of("full-part", part="0/1"))


def test_a_file_that_was_changed_meanwhile_is_named(recipe_of: MakeRecipe) -> None:
    recipe = recipe_of("damaged", part="0/1")
    slm.distill.run(recipe)
    file = sorted(units(recipe).glob("*/rows.arrow"))[0]
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"rows\.arrow is damaged: its sha256"):
        slm.distill.run(recipe_of("damaged"))


def test_the_seed_and_the_settings_decide_the_bytes(stored: Artifact, recipe_of: MakeRecipe) -> None:
    recipe = recipe_of("other")
    other = slm.distill.run(recipe.model_copy(update={"seed": 5}))
    assert set(hashes(other).values()).isdisjoint(hashes(stored).values())
    with pytest.raises(UserError, match=r"was made by another recipe .*kept: 16 -> 4.*choose another run=NAME"):
        slm.distill.run(recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"kept": 4})}))


def test_a_teacher_of_another_tokenizer_is_refused(recipe_of: MakeRecipe, teacher: Recipe, tmp_path: Path) -> None:
    """The same words with another template are another tokenizer."""
    import slm.shards
    import slm.tokenizer

    other = build_recipe(
        {**teacher.resolved(), "run": "other", "runs_dir": str(tmp_path), "start": "corpus", "stop": "report",
         "tokenizer": {**teacher.tokenizer.resolved(), "vocab_size": 320},
         "model": {**teacher.model.resolved(), "vocab_size": 320},
         "artifacts": {"corpus": str(teacher.folder("corpus"))}}
    )  # fmt: skip
    for stage in (slm.tokenizer, slm.shards):
        stage.run(other)
    places = {stage: str(other.folder(stage)) for stage in ("tokenizer", "shards")}  # type: ignore[arg-type]
    recipe = recipe_of("mismatched", artifacts=places)
    with pytest.raises(UserError, match=r"\(train\) was made from tokenizer \w+, but .* is \w+; point artifacts\.tok"):
        slm.distill.run(recipe)


def test_what_would_store_nothing_is_refused(recipe_of: MakeRecipe, teacher: Recipe) -> None:
    with pytest.raises(UserError, match=r"set objective\.kind=distill, objective\.distill\.source=store and"):
        slm.distill.run(teacher)
    with pytest.raises(UserError, match=r"distill\.kept \(331\) must not exceed the 330 entries"):
        slm.distill.run(recipe_of("too-many", method="top_k", kept=331))
    with pytest.raises(UserError, match=r"distill\.part \(2/2\) counts from 0"):
        slm.distill.run(recipe_of("no-part", part="2/2"))
    shutil.rmtree(units(recipe_of("no-part")), ignore_errors=True)
