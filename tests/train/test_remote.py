"""Checkpoints in a bucket: uploaded behind the steps, resumed from on a fresh machine, through kills and outages."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import slm.train
from slm.core import store as store_module
from slm.core.errors import UserError
from slm.core.store import Store
from slm.recipe import Recipe
from slm.train import loop, remote
from slm.train.checkpoint import step_folders
from slm.train.ledger import behind, read_ledger

PROGRAM = """
import pathlib, sys
import slm.train
from slm.core import store
from slm.recipe import Recipe

store.PART_BYTES = 64 << 10
slm.train.run(Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text()))
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(store_module, "PART_BYTES", 64 << 10)


@pytest.fixture
def bucket_recipe(make_recipe: Callable[..., Recipe], s3: Any) -> Callable[..., Recipe]:
    """`bucket_recipe("name", asynchronous=True)`: a recipe whose checkpoints also go to the bucket."""

    def make(run: str, bucket: str = s3.bucket, **settings: object) -> Recipe:
        return make_recipe(run, checkpoints={"remote": f"s3://{bucket}/runs", **settings})

    return make


def there(recipe: Recipe) -> list[str]:
    return Store(f"{recipe.train.checkpoints.remote}/{recipe.run}/train").published()


def forget(recipe: Recipe) -> None:
    """What a fresh machine has of a run: nothing."""
    shutil.rmtree(recipe.folder("train"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_goes_on_from_the_bucket_where_nothing_is_left_here(
    bucket_recipe, unbroken, figures, hashes, train_until_killed, capsys, asynchronous
):
    recipe = bucket_recipe(f"moved-{asynchronous}", asynchronous=asynchronous)
    train_until_killed(recipe, "upload", 2)  # asked to upload step 8; 4 is there
    assert there(recipe) == ["step-00000004"]
    forget(recipe)
    slm.train.run(recipe)
    printed = capsys.readouterr().out
    assert "train: fetched step-00000004 from s3://" in printed
    assert "(step 4 of 12)" in printed
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    assert there(recipe) == [path.name for path in step_folders(recipe.folder("train"))]
    assert there(recipe) == ["step-00000012", "step-00000008"]

    forget(recipe)  # and after its end
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_a_process_killed_while_its_parts_are_uploaded_leaves_no_manifest(
    bucket_recipe, unbroken, figures, hashes, s3, tmp_path, capsys
):
    recipe = bucket_recipe("killed-uploading", asynchronous=True)
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(file)], stdout=subprocess.DEVNULL)

    def kill(request: str) -> int:
        if "step-00000008" in request and "partNumber=2" in request:
            os.kill(process.pid, signal.SIGKILL)
            return 503
        return 0

    s3.fault = kill
    assert process.wait(timeout=60) == -signal.SIGKILL
    s3.fault = lambda _: 0
    assert [request for request in s3.requests if "partNumber=1" in request and "step-00000008" in request]
    assert there(recipe) == ["step-00000004"]
    forget(recipe)
    slm.train.run(recipe)
    assert "train: fetched step-00000004" in capsys.readouterr().out
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    assert there(recipe) == ["step-00000012", "step-00000008"]


def test_a_server_in_trouble_now_and_then_costs_attempts_and_nothing_else(bucket_recipe, hashes, unbroken, s3):
    recipe, turn = bucket_recipe("trouble"), itertools.count()
    s3.fault = lambda _: 503 if next(turn) % 29 < 3 else 0
    slm.train.run(recipe)
    s3.fault = lambda _: 0
    told = behind(read_ledger(recipe.folder("train")))
    print(f"\n{told}")
    assert told["upload_retries"] > 0
    assert (told["uploads"] + told["uploads_overtaken"], told["uploads_missing"]) == (3, 0)
    assert there(recipe)[0] == "step-00000012"
    assert hashes(recipe) == hashes(unbroken)


def test_without_the_server_the_run_goes_on_says_so_and_uploads_later(
    bucket_recipe, hashes, unbroken, s3, monkeypatch, capsys
):
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    recipe = bucket_recipe("outage", remote_wait_seconds=3)
    honest, count = loop.forward_backward, itertools.count(1)

    def outage(*arguments: Any) -> Any:
        if next(count) == 6:
            s3.stop()
        return honest(*arguments)

    monkeypatch.setattr(loop, "forward_backward", outage)
    slm.train.run(recipe)
    printed = capsys.readouterr().out
    assert "was not uploaded (s3://" in printed
    assert "training goes on, and it is tried again" in printed
    assert "checkpoints are not in s3://" in printed
    assert "train: finished 12 steps" in printed
    told = behind(read_ledger(recipe.folder("train")))
    assert told["uploads_missing"] >= 1
    assert told["uploads_failed"] >= 1
    assert hashes(recipe) == hashes(unbroken)
    s3.start()
    slm.train.run(recipe)
    assert "train: up to date in" in capsys.readouterr().out
    assert there(recipe) == ["step-00000012", "step-00000008"]


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_trained(bucket_recipe):
    recipe = bucket_recipe("lost", bucket="no-such-bucket")
    with pytest.raises(UserError, match=r"s3://no-such-bucket/runs/lost/train cannot be written .*make the bucket"):
        slm.train.run(recipe)
    assert not recipe.folder("train").exists()


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("model-00001-of-00001.safetensors", "is damaged (sha256)"),
        ("manifest.json", "was changed after it was written (its checksum differs)"),
    ],
)
def test_what_is_damaged_there_is_left_aside_and_the_one_before_is_taken(
    bucket_recipe, unbroken, hashes, s3, capsys, file, problem
):
    recipe = bucket_recipe(f"spoilt-{file[:8]}")
    slm.train.run(recipe)
    key = f"/{s3.bucket}/runs/{recipe.run}/train/step-00000012/{file}"
    content = bytearray(s3.ask("GET", key))
    place = content.index(b'"step": 12') + 8 if file == "manifest.json" else -5
    content[place] ^= 0x8  # of the step the digit 1, which becomes 9
    s3.ask("PUT", key, bytes(content))
    forget(recipe)
    capsys.readouterr()
    slm.train.run(recipe)
    printed = capsys.readouterr().out
    assert problem in printed
    assert "left aside there" in printed
    assert "train: fetched step-00000008" in printed
    assert hashes(recipe) == hashes(unbroken)
    assert there(recipe)[0] == "step-00000012"


def test_the_newer_of_both_places_is_taken(bucket_recipe, unbroken, hashes, figures, train_until_killed, capsys):
    recipe = bucket_recipe("two-places")
    train_until_killed(recipe, "step", 10)
    kept = recipe.folder("train").with_name("kept")
    shutil.copytree(recipe.folder("train"), kept)
    slm.train.run(recipe)
    forget(recipe)
    kept.rename(recipe.folder("train"))  # what an earlier machine still has
    capsys.readouterr()
    slm.train.run(recipe)
    assert "train: fetched step-00000012" in capsys.readouterr().out
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_checkpoints_of_another_recipe_there_are_refused_or_replaced(bucket_recipe, capsys):
    recipe = bucket_recipe("another")
    slm.train.run(recipe)
    forget(recipe)
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"tokens": 4 * 256})})
    with pytest.raises(UserError, match=r"s3://.*/another/train holds checkpoints of another .*train\.tokens"):
        slm.train.run(other)
    slm.train.run(other.model_copy(update={"redo": True}))
    assert "fetched" not in capsys.readouterr().out
    assert there(recipe) == ["step-00000004"]


def test_an_upload_whose_checkpoint_is_gone_is_overtaken(bucket_recipe, capsys):
    recipe = bucket_recipe("overtaken")
    slm.train.run(recipe)
    uploader = remote.uploader_of(recipe)
    uploader.add(recipe.folder("train") / "step-00000002")
    uploader.finish()
    assert uploader.figures()["uploads_overtaken"] == 1
    assert uploader.left == 0
    assert "was not uploaded" not in capsys.readouterr().out


def test_what_a_kill_in_the_last_deletion_left_goes_at_the_next_start_of_a_finished_run(bucket_recipe, capsys):
    recipe = bucket_recipe("half-deleted")
    slm.train.run(recipe)
    folder = recipe.folder("train")
    newest = folder / "step-00000012"
    half, draft = folder / "step-00000006", folder / "step-00000007.tmp-999999999"
    for leftover in (half, draft):
        shutil.copytree(newest, leftover)
    (half / "manifest.json").unlink()
    slm.train.run(recipe)
    assert "train: up to date in" in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000008", "step-00000012"]


def test_a_run_told_to_stop_uploads_what_it_saved(bucket_recipe, unbroken, figures, hashes, monkeypatch):
    recipe = bucket_recipe("stopped-uploading", asynchronous=True)
    honest, count = loop.forward_backward, itertools.count(1)

    def told(*arguments: Any) -> Any:
        if next(count) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments)

    monkeypatch.setattr(loop, "forward_backward", told)
    with pytest.raises(KeyboardInterrupt):
        slm.train.run(recipe)
    assert there(recipe) == ["step-00000006", "step-00000004"]
    forget(recipe)
    monkeypatch.setattr(loop, "forward_backward", honest)
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
