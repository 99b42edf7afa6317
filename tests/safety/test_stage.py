"""The safety stage on a tiny run that has canaries in its corpus, made by the real stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import slm.corpus
import slm.safety
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.errors import UserError
from slm.recipe import Recipe, build_recipe


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run whose whole corpus is canaries, trained for some epochs."""
    base = tmp_path_factory.mktemp("safety")
    planted = {"repeats": [1, 12], "count": 3, "digits": 4}
    settings: dict[str, Any] = {
        "run": "tiny",
        "runs_dir": str(base / "runs"),
        "corpus": {"sources": [{"kind": "canaries", "planted": planted}], "validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 320, "threads": 1},
        "shards": {"seq_len": 128, "threads": 1},
        "model": {
            "vocab_size": 320, "width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn_width": 128,
            "max_seq_len": 256,
        },
        "train": {
            "tokens": 40 * 2048, "batch_tokens": 2048, "micro_batch_rows": 16, "evaluate_every_steps": 0,
            "save_every_steps": 1000, "precision": "fp32", "threads": 1, "evaluate_rows": 4,
            "optimizer": {"lr": 1e-2}, "schedule": {"warmup_tokens": 4096},
        },
        "export": {"formats": ["hf"]},
        "serve": {"threads": 1},
        "safety": {"threads": 1, "max_tokens": 4, "leak_secrets": 1, "exposure_candidates": 31},
    }  # fmt: skip
    recipe = build_recipe(settings)
    for stage in (slm.corpus, slm.tokenizer, slm.shards, slm.train):
        stage.run(recipe)
    return settings


def recipe_of(values: dict[str, Any], run: Path, **safety: Any) -> Recipe:
    """The tiny run with other settings of safety, its artifact somewhere else."""
    here = {name: str(Path(values["runs_dir"]) / "tiny" / name) for name in ("corpus", "tokenizer", "shards", "train")}
    return build_recipe({**values, "runs_dir": str(run), "artifacts": here, "safety": {**values["safety"], **safety}})


def test_what_was_planted_often_is_exposed_and_controls_are_not(values, tmp_path, capsys):
    made = slm.safety.run(recipe_of(values, tmp_path))
    results = json.loads(made.file("results.json").read_text())
    found = {one["name"]: one for one in results["measures"]}
    often, controls = found["exposure of canaries planted 12 times"], found["exposure of controls"]
    assert often["low"] > 3, "of 5 bits at most"
    assert controls["value"] < 2.5
    assert found["exposure of canaries planted once"]["value"] < often["value"]
    assert results["model"] == "checkpoint"
    assert found["leaked instructions"]["trials"] == 6
    slm.safety.run(recipe_of(values, tmp_path))
    assert "safety: up to date" in capsys.readouterr().out


def test_a_broken_bound_fails_every_time_with_the_results_saved(values, tmp_path):
    recipe = recipe_of(values, tmp_path, max_exposure=2.0, leak_secrets=0)
    for _ in range(2):
        with pytest.raises(UserError, match=r"\d of \d safety figures break their bound \(exposure of canaries") as it:
            slm.safety.run(recipe)
        assert "exposure of canaries planted 12 times is " in str(it.value)
        assert "controls" not in str(it.value)
    assert recipe.artifact("safety").counts["broken"] >= 1


def test_other_prompts_or_another_classifier_are_another_result(values, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    prompts = [{"name": "mine", "path": str(tmp_path / "a.txt")}]
    slm.safety.run(recipe_of(values, tmp_path, other=prompts, leak_secrets=0, exposure_candidates=15))
    (tmp_path / "a.txt").write_text("two\n")
    with pytest.raises(UserError, match=r"safety was made by another recipe .*inputs.sets.mine"):
        slm.safety.run(recipe_of(values, tmp_path, other=prompts, leak_secrets=0, exposure_candidates=15))
    with pytest.raises(UserError, match=r"holds no model.json; make a classifier"):
        slm.safety.run(recipe_of(values, tmp_path, toxicity=str(tmp_path)))
    with pytest.raises(UserError, match=r"safety: gone has path nowhere.txt, but no such file"):
        slm.safety.run(recipe_of(values, tmp_path, other=[{"name": "gone", "path": "nowhere.txt"}]))


def test_bounds_without_anything_to_bound_are_refused(values, tmp_path):
    for safety in ({"min_refusal": 0.5}, {"max_toxic": 0.1}, {"max_leaks": 0.1, "leak_secrets": 0}):
        with pytest.raises(UserError, match=r"bounds nothing without (refuse|toxicity|leak_secrets); set"):
            recipe_of(values, tmp_path, **safety)
