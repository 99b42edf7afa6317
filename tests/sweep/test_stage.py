"""The command: what it prints and writes, and what the finalists are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slm.core.errors import UserError
from slm.evaluate.trials import Trial
from slm.sweep import run
from slm.sweep import stage as stage_module
from slm.sweep.stage import command
from slm.sweep.study import search_folder
from tests.evaluate.planted import document_rows, publish, publish_checkpoint, publish_corpus

KEY = "train.optimizer.lr"


def planted(folder: Path):
    """Evaluations with a gain of 0.1 bits per byte for every change, and a little noise."""
    corpus, noise = publish_corpus(folder / "corpus"), np.random.default_rng(0)

    def evaluated(recipe, _kind, changes):
        found = {}
        for name, settings in changes.items():
            for seed in range(recipe.seed + 1, recipe.seed + 1 + recipe.sweep.seeds):
                moved = noise.normal(0, 0.002) - (0.1 if settings else 0.0)
                rows = [
                    {**row, "nats": row["nats"] + moved * row["bytes"] * np.log(2)} for row in document_rows(0.0, 1)
                ]
                path = folder / f"{name}-seed{seed}"
                train = {"optimizer": {"lr": settings[KEY]}} if settings else {}
                checkpoint = publish_checkpoint(path, 1_000_000, seed, train=train)
                made = publish(path, corpus, rows, checkpoint=checkpoint)
                row = {"kind": "evaluate", "step": 1, "tokens": 1, "bits_per_byte": 2.5}
                (path / "train" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
                found.setdefault(name, []).append(made)
        return found

    return evaluated


@pytest.mark.usefixtures("pretending")
def test_a_search_ends_with_finalists_over_seeds_a_page_and_a_command(recipe_of, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.setattr(stage_module, "evaluated", planted(tmp_path))
    recipe = recipe_of("told", trials=8, finalists=2, seeds=3)
    run(recipe, ["recipe=smoke", "sweep.trials=8", "model.layers=2"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 finalists are better than the recipe as it is at 5 %, corrected for their number" in printed
    assert "with other seeds the same measurement has 2.5000 on average" in printed
    assert f"python -m slm.pipeline recipe=smoke model.layers=2 {KEY}=0." in printed
    assert "run=told-trial-000" in printed
    page = (search_folder(recipe) / "sweep.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert (search_folder(recipe) / "sweep.png").is_file()


def test_without_a_space_or_a_finished_trial_there_is_nothing_to_say(recipe_of, monkeypatch):
    with pytest.raises(UserError, match=r"sweep.space is empty.*name settings"):
        run(recipe_of("empty", space=[]), [])
    pytest.importorskip("optuna")
    monkeypatch.setattr(stage_module, "search", lambda *_: None)
    failed = [Trial(0, "failed", {KEY: 1.0}, {}, 0.0, 0.0, "it was too hot")]
    monkeypatch.setattr(stage_module, "trials_of", lambda _: failed)
    with pytest.raises(UserError, match="no trial came to its end: it was too hot"):
        run(recipe_of("none"), [])


def test_the_command_keeps_what_was_typed_but_the_search(recipe_of):
    one = Trial(3, "finished", {KEY: 0.01, "train.optimizer.kind": "muon"}, {1: 2.0}, 0.0, 0.0)
    line = command(
        one, recipe_of("typed"), ["recipe=x", "sweep.space=[{a: b}]", "run=typed", "data.x=a b", "redo=true"]
    )
    assert line == (
        f"python -m slm.pipeline recipe=x 'data.x=a b' {KEY}=0.01 train.optimizer.kind=muon run=typed-trial-0003"
    )
