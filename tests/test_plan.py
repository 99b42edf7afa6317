"""`slm plan`: from the recipe alone, without shards, in seconds."""

from __future__ import annotations

import time

import pytest

from slm import plan
from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.train import memory, speed


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


def test_several_processes_share_memory_and_time_and_an_average_takes_room(capsys):
    words = ("train.probe=false", "train.precision=bf16", "train.ema_decay=0.99", "train.micro_batch_rows=4")
    shared = ("train.processes=4", "train.parallel=full_shard")
    plan.run(load_recipe("recipe=pretrain_15m", *words))
    alone = rows_of(capsys.readouterr().out)
    plan.run(load_recipe("recipe=pretrain_15m", *words, *shared))
    printed = capsys.readouterr().out
    each = rows_of(printed)
    assert "memory of each of 4 processes (full_shard) at micro-batches of 4 rows" in printed
    assert "4 devices, full_shard; time" in printed
    for part in ("weights", "optimizer", "average"):
        assert float(each[part][0]) == pytest.approx(float(alone[part][0]) / 4, rel=0.01)
    assert alone["average"] == alone["weights"]
    assert "gathered" in each
    assert "gathered" not in alone


def test_processes_that_cannot_share_a_step_are_refused():
    with pytest.raises(UserError, match=r"train\.processes \(7\) must divide the rows of a step"):
        plan.run(load_recipe("recipe=smoke", "train.processes=7", "train.probe=false"))
    with pytest.raises(UserError, match=r"train\.parallel is full_shard, but there is one process"):
        plan.run(load_recipe("recipe=smoke", "train.parallel=full_shard", "train.probe=false"))


def rows_of(printed: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for line in printed.splitlines() if len(words := line.split()) > 1}


def test_this_machine_is_measured_with_a_short_step(capsys):
    recipe = load_recipe("recipe=smoke", "train.threads=1")
    plan.run(recipe)
    printed = capsys.readouterr().out
    assert "of this machine's measured" in printed
    assert "cost unknown" in printed


def test_a_share_above_all_that_the_machine_does_is_not_told(capsys, monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1.0)
    plan.run(load_recipe("recipe=smoke", "train.threads=1"))
    assert "here: an unknown share (the machine is busy" in capsys.readouterr().out


def test_a_row_of_a_deep_model_takes_longer_than_one_of_a_shallow_one():
    shallow, deep = (load_recipe("recipe=smoke", f"model.layers={count}") for count in (2, 12))
    few, many = (plan.seconds_per_row(recipe, "cpu", "fp32") for recipe in (shallow, deep))
    assert few < many < 100 * few
