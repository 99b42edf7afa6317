"""Trials: measured, ended early, failed, killed and gone on with, shared by processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.sweep.process import held
from slm.sweep.search import search
from slm.sweep.study import open_study, search_folder, trials_of
from slm.train.plan import plan

pytest.importorskip("optuna")


def searched(recipe: Recipe) -> list:
    study = open_study(recipe)
    search(study, recipe)
    return trials_of(study)


def in_a_process(recipe: Recipe, tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.resolved()))
    line = [sys.executable, str(Path(__file__).with_name("searching.py")), str(tmp_path / "recipe.json")]
    return subprocess.Popen(line, env={**os.environ, "SLM_PRETEND_SECONDS": str(seconds)}, stdout=subprocess.DEVNULL)


@pytest.mark.usefixtures("pretending")
def test_a_search_finds_the_valley_ends_bad_trials_early_and_survives_dead_ones(recipe_of, capsys):
    recipe = recipe_of("valley", trials=16)
    trials = searched(recipe)
    assert [one.number for one in trials] == list(range(16))
    states = [one.state for one in trials]
    assert {"finished", "ended early"} <= set(states) <= {"finished", "ended early", "failed"}
    finished = [one for one in trials if one.state == "finished"]
    early = [one for one in trials if one.state == "ended early"]
    assert all(set(one.measured) == {1, 2, 3, 4} for one in finished)
    assert all(max(one.measured) < 4 for one in early)
    lowest = min(finished, key=lambda one: one.value)
    assert 0.003 < lowest.settings["train.optimizer.lr"] < 0.03
    assert min(one.measured[1] for one in early) > lowest.measured[1], "no trial ended early for being good"
    whole = plan(recipe).flops
    assert all(one.flops == pytest.approx(whole) for one in finished)
    assert all(whole * max(one.measured) / 4 <= one.flops * (1 + 1e-9) for one in early), "what it had taken by then"
    assert not list(search_folder(recipe).glob("trial-*/train/step-*")), "weights of trials are not kept"
    assert "trial-0015 of 16: train.optimizer.lr=" in capsys.readouterr().out


@pytest.mark.usefixtures("pretending")
def test_trials_that_fail_are_killed_or_cannot_be_are_told_with_their_reason(recipe_of):
    space = [{"key": "train.optimizer.lr", "kind": "choice", "choices": [0.01, 0.6, 0.0001]},
             {"key": "train.batch_tokens", "kind": "choice", "choices": [256, 100]}]  # fmt: skip
    trials = searched(recipe_of("ends", space=space, trials=12, sampler="random"))
    reasons = {}
    for one in trials:
        reasons.setdefault((one.settings["train.optimizer.lr"], one.settings["train.batch_tokens"]), one.reason)
    assert reasons[0.01, 256] == ""
    assert reasons[0.6, 256] == "train.optimizer.lr is too high; lower it"
    assert reasons[0.0001, 256] == "killed by SIGKILL"
    assert "train.batch_tokens (100) must be a multiple of" in reasons[0.01, 100]


@pytest.mark.usefixtures("pretending")
def test_a_search_whose_first_trials_all_fail_gives_up(recipe_of):
    space = [{"key": "train.optimizer.lr", "low": 0.6, "high": 0.9}]
    with pytest.raises(UserError, match=r"the first 3 trials all failed, the last because .* is too high"):
        searched(recipe_of("hopeless", space=space))


@pytest.mark.usefixtures("pretending")
def test_computation_is_a_limit_that_no_trial_exceeds(recipe_of):
    recipe = recipe_of("limited", trials=10, pruner="none")
    whole = plan(recipe).flops
    limited = recipe.model_copy(update={"sweep": recipe.sweep.model_copy(update={"max_flops": 3.5 * whole})})
    trials = searched(limited)
    assert len(trials) == 3
    assert sum(one.flops for one in trials) == pytest.approx(3 * whole)
    assert len(searched(recipe)) == 10, "with more to spend the same search goes on"


@pytest.mark.usefixtures("pretending")
def test_a_killed_search_goes_on_as_if_it_had_not_been(recipe_of, tmp_path):
    unbroken = searched(recipe_of("unbroken", trials=8))
    recipe = recipe_of("killed", trials=8)
    process = in_a_process(recipe, tmp_path, 0.3)
    working = search_folder(recipe) / "trial-0002"
    while not (working / "train/metrics.jsonl").exists() or not (working / "train/metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = (working / "output.txt").read_text()
    with held(working, wait=True) as lock:  # once the trial's own process has left it too, or the next would come first
        assert lock is not None
    trials = searched(recipe)
    assert (working / "output.txt").read_text().count("begun") == begun.count("begun") + 1 == 2
    assert [(one.state, one.settings, one.measured) for one in trials] == [
        (one.state, one.settings, one.measured) for one in unbroken
    ]


def test_processes_share_a_search(recipe_of, tmp_path):
    recipe = recipe_of(
        "shared", trials=9, first_trials=1, space=[{"key": "train.optimizer.lr", "low": 1e-3, "high": 0.1}]
    )
    processes = [in_a_process(recipe, tmp_path, 0.1) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    trials = trials_of(open_study(recipe))
    assert [one.number for one in trials] == list(range(9))
    assert {one.state for one in trials} <= {"finished", "ended early"}
    for one in trials:
        output = (search_folder(recipe) / f"trial-{one.number:04d}" / "output.txt").read_text()
        assert output.count("begun") == 1, "no trial was worked on by both"


def test_a_real_trial_trains(recipe_of):
    (one,) = searched(recipe_of("real", trials=1))
    assert one.state == "finished"
    assert set(one.measured) == {1, 2, 3, 4}
    assert one.measured[4] < one.measured[1]
    assert one.seconds > 0
