"""`slm plan`: from the recipe alone, without shards, in seconds."""

from __future__ import annotations

import time

from slm import plan
from slm.compose import load_recipe
from slm.train import memory


def test_a_large_recipe_is_planned_from_its_settings_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "SIMULATED_TOKENS", 4096)  # halves the time of the test
    words = ("train.probe=false", "train.price_per_hour=2", "train.precision=bf16", f"runs_dir={tmp_path}")
    recipe = load_recipe("recipe=pretrain_300m", *words)
    began = time.monotonic()
    plan.run(recipe)
    assert time.monotonic() - began < 60
    printed = capsys.readouterr().out
    assert "304,137,216" in printed
    assert "10,000,269,312 tokens in 19,074 steps of 524,288: 32.9 tokens per parameter" in printed
    assert "epochs unknown until the shards are made" in printed
    sizes = [line.split()[0] for line in printed.splitlines() if " GB " in line and line.strip()[0].isdigit()]
    assert {"8", "16", "24", "80", "141"} <= set(sizes)
    h200 = next(line for line in printed.splitlines() if "NVIDIA H200" in line)
    assert "14 h 5" in h200  # 2.13e19 / (0.4 x 989e12) seconds
    assert "here:" not in printed
    assert list(tmp_path.iterdir()) == []


def test_this_machine_is_measured_with_a_short_step(capsys):
    recipe = load_recipe("recipe=smoke", "train.threads=1")
    plan.run(recipe)
    printed = capsys.readouterr().out
    assert "of this machine's measured" in printed
    assert "cost unknown" in printed


def test_a_row_of_a_deep_model_takes_longer_than_one_of_a_shallow_one():
    shallow, deep = (load_recipe("recipe=smoke", f"model.layers={count}") for count in (2, 12))
    few, many = (plan.seconds_per_row(recipe, "cpu", "fp32") for recipe in (shallow, deep))
    assert few < many < 100 * few
