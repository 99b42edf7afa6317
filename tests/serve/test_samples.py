"""The stage that publishes answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import slm.safety
from slm.compose import load_recipe
from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.serve import run


@pytest.fixture
def copied(runs: Path, overrides: tuple[str, ...], tmp_path: Path) -> tuple[str, ...]:
    """Overrides for a copy of the tiny run that a test may write into."""
    shutil.copytree(runs, tmp_path / "runs")
    prompts = "serve.sample_prompts=['import','def f']"
    return (*overrides, f"runs_dir={tmp_path / 'runs'}", prompts, "serve.max_tokens=6")


def test_the_exported_gguf_answers_each_prompt_greedily_and_sampled(
    copied: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(*copied, "serve.temperature=0.9")
    artifact = run(recipe)
    content = json.loads(artifact.file("samples.json").read_text(encoding="utf-8"))
    assert content["engine"].startswith("llama.cpp (xllamacpp ")
    assert content["model"] == "model-q8_0.gguf"
    assert [(s["prompt"], s["mode"]) for s in content["samples"]] == [
        ("import", "greedy"), ("import", "sampled"), ("def f", "greedy"), ("def f", "sampled"),
    ]  # fmt: skip
    assert all(s["generated_tokens"] == 6 and s["tokens_per_second"] > 0 for s in content["samples"])
    assert artifact.counts["samples"] == 4
    assert set(artifact.manifest["parents"]) == {"export"}
    printed = capsys.readouterr().out
    assert all(s["prompt"] + s["text"] in printed for s in content["samples"])
    assert run(recipe).fingerprint == artifact.fingerprint
    assert "serve: up to date" in capsys.readouterr().out


def test_other_sampling_settings_are_refused_rather_than_ignored(copied: tuple[str, ...]) -> None:
    run(load_recipe(*copied))
    with pytest.raises(UserError, match=r"top_k: 50 -> 7"):
        run(load_recipe(*copied, "serve.top_k=7"))
    assert run(load_recipe(*copied, "serve.prompt=other", "serve.threads=2"))


def test_without_a_gguf_the_checkpoint_answers_and_that_is_said(
    copied: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(*copied, "export.formats=[hf]")
    artifact = run(recipe)
    assert "export.formats holds no GGUF, so the checkpoint answers" in capsys.readouterr().out
    assert artifact.counts["engine"] == "torch, from the checkpoint"
    assert set(artifact.manifest["parents"]) == {"train", "tokenizer"}


def test_an_export_without_its_gguf_files_is_refused(copied: tuple[str, ...]) -> None:
    recipe = load_recipe(*copied)
    shutil.rmtree(recipe.folder("export"))
    with pytest.raises(UserError, match="there is no export in"):
        run(recipe)


@pytest.mark.parametrize("words", ["serve.model=other.gguf", "serve.adapter=adapters/other"])
@pytest.mark.parametrize("stage", [run, slm.safety.run], ids=["serve", "safety"])
def test_naming_another_model_or_an_adapter_for_a_stage_is_refused(
    copied: tuple[str, ...], stage: Callable[[Recipe], Artifact], words: str
) -> None:
    """Its answers would be taken for the run's own, whose artifact does not say what it was given."""
    with pytest.raises(UserError, match=r"serve\.\w+ \(.*other.*\) has no part in a stage"):
        stage(load_recipe(*copied, words))
