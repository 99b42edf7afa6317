"""The chain of stages: which run, which are taken from elsewhere, what is said at the end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from slm import pipeline
from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.recipe import CHAIN, Recipe, build_recipe


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace every stage by one that only notes that it ran."""
    order: list[str] = []
    for stage in CHAIN:
        module = importlib.import_module(f"slm.{stage}")

        def note(_recipe: Recipe, stage: str = stage) -> Artifact:
            order.append(stage)
            return Artifact(Path(stage), {"counts": {}})

        monkeypatch.setattr(module, "run", note)
    return order


def test_stages_run_in_order(ran, tmp_path, capsys):
    asked = {
        "compress": {"variants": [{"name": "int4"}]},
        "objective": {"kind": "distill", "distill": {"source": "store"}},
    }
    made = pipeline.run(build_recipe({"runs_dir": str(tmp_path), **asked}))
    assert ran == list(CHAIN) == list(made)
    assert f"[1/{len(CHAIN)}] corpus" in capsys.readouterr().out


def test_nothing_is_stored_or_compressed_where_it_is_not_asked_for(ran, tmp_path, capsys):
    made = pipeline.run(build_recipe({"runs_dir": str(tmp_path)}))
    assert ran == list(made) == [stage for stage in CHAIN if stage not in ("distill", "compress")]
    printed = capsys.readouterr().out
    assert "compress: compress.variants is empty, nothing to make" in printed
    assert "distill: the objective reads no store of a teacher, nothing to make" in printed


def test_from_and_to_choose_a_part(ran, tmp_path):
    pipeline.run(build_recipe({"runs_dir": str(tmp_path), "start": "shards", "stop": "evaluate"}))
    assert ran == ["shards", "train", "evaluate"]


def test_an_artifact_from_elsewhere_is_checked_and_not_made(ran, tmp_path):
    recipe = build_recipe({"runs_dir": str(tmp_path), "stop": "shards", "artifacts": {"tokenizer": str(tmp_path)}})
    with pytest.raises(
        UserError,
        match=r"there is no tokenizer in .*; make it with the same settings by slm pipeline to=tokenizer, or name",
    ):
        pipeline.run(recipe)
    assert ran == ["corpus"]


@pytest.mark.usefixtures("ran")
def test_the_end_names_only_what_exists(tmp_path, capsys):
    recipe = build_recipe({"runs_dir": str(tmp_path), "run": "r"})
    pipeline.run(recipe)
    assert "chat" not in capsys.readouterr().out
    export = recipe.folder("export")
    export.mkdir(parents=True)
    (export / "model-f16.gguf").write_bytes(b"x" * 2000)
    (export / "model-q8_0.gguf").write_bytes(b"x" * 1000)
    pipeline.run(recipe)
    printed = capsys.readouterr().out
    assert f"{export}/model-f16.gguf (2.0 kB)" in printed
    assert f"slm chat serve.model={export}/model-q8_0.gguf" in printed


def test_the_chat_command_can_be_typed_whether_or_not_the_environment_is_active(tmp_path, monkeypatch):
    binary = tmp_path / ".venv" / "bin"
    binary.mkdir(parents=True)
    for name in ("slm", "python"):
        (binary / name).write_text("#!/bin/sh\n")
        (binary / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(binary / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert pipeline.console_command() == ".venv/bin/slm"
    monkeypatch.chdir("/")
    assert pipeline.console_command() == str(binary / "slm")
    monkeypatch.setenv("PATH", str(binary))
    assert pipeline.console_command() == "slm"


def test_several_processes_are_for_training_alone(ran, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"the pipeline was started as 2 processes, .*-m slm\.train"):
        pipeline.run(build_recipe({"run": "several"}))
    assert ran == []
    pipeline.run(build_recipe({"run": "several", "start": "train", "stop": "train"}))
    assert ran == ["train"]


def test_the_report_is_made_again_after_safety_also_where_a_bound_is_broken(ran, tmp_path, monkeypatch):
    def broken(_recipe: Recipe) -> Artifact:
        ran.append("safety")
        raise UserError("1 of 2 safety figures break their bound")

    monkeypatch.setattr(importlib.import_module("slm.safety"), "run", broken)
    with pytest.raises(UserError, match="break their bound"):
        pipeline.run(build_recipe({"runs_dir": str(tmp_path), "start": "serve", "stop": "release"}))
    assert ran == ["serve", "report", "safety", "report"]
    ran.clear()
    with pytest.raises(UserError, match="break their bound"):
        pipeline.run(build_recipe({"runs_dir": str(tmp_path), "start": "safety", "stop": "safety"}))
    assert ran == ["safety"]  # a report was not asked for
