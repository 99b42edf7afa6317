"""`slm plan`: from the recipe alone, without shards, in seconds."""

from __future__ import annotations

import sys
import time

import pytest

from slm import plan
from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.train import memory, speed
from slm.train.devices import DEVICES
from slm.train.plan import plan as facts_of


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
    shape, tokens = recipe.model, 10_000_269_312
    blocks = shape.width * shape.head_dim * 2 * (shape.heads + shape.kv_heads) + 3 * shape.width * shape.ffn_width
    attention = 12 * shape.layers * shape.heads * shape.head_dim * (2048 + 1) / 2
    flops = tokens * (6 * (shape.layers * blocks + shape.vocab_size * shape.width) + attention)
    assert (
        f"{flops:.3g} FLOPs: each token 6 x (matrices + head) + 12 x layers x heads x head_dim x "
        "(keys seen, 2,048-token documents)"
    ) in " ".join(printed.split())
    assert h200.split()[-1] == f"{2 * flops / (0.4 * 989e12) / 3600:,.2f}"  # two an hour
    assert "here:" not in printed
    assert list(tmp_path.iterdir()) == []


def test_adapters_are_planned_by_what_they_cost(capsys, monkeypatch):
    monkeypatch.setattr(memory, "SIMULATED_TOKENS", 256)
    words = ("recipe=smoke", "train.threads=1", "train.initial=runs/base", "train.tokens=32768")
    told, measured = [], []
    real = plan.seconds_per_row
    monkeypatch.setattr(plan, "seconds_per_row", lambda *given: measured.append(real(*given)) or measured[-1])
    for more in ((), ("train.lora={rank: 4}",)):
        plan.run(load_recipe(*words, *more))
        told.append(" ".join(capsys.readouterr().out.split()))
    assert "each token 6 x (matrices + head) + 12 x" in told[0]
    assert "each token 4 x (matrices + head) + 6 x adapters + 12 x" in told[1]
    assert all(0 < seconds < 10 for seconds in measured)
    assert len(measured) == 2


def test_a_price_on_the_command_line_becomes_the_cost_here_and_on_every_device(capsys, monkeypatch):
    words = ["recipe=smoke", "price=3600e6", "train.threads=1"]  # a second costs a million
    monkeypatch.setattr(sys, "argv", ["slm plan", *words])
    monkeypatch.setattr(plan, "seconds_per_row", lambda *_: 0.25)
    monkeypatch.setattr(memory, "SIMULATED_TOKENS", 256)  # a fraction of the time
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e12)
    plan.main()
    printed = capsys.readouterr().out
    recipe = load_recipe(*(word.replace("price=", "train.price_per_hour=") for word in words))
    facts = facts_of(recipe)
    here = 0.25 * facts.tokens / recipe.shards.seq_len
    assert f"cost {1e6 * here:,.2f}" in printed
    known = {name: device for name, device in DEVICES.items() if device.memory_gb in plan.SIZES_GB}
    costs = {name: line.split()[-1] for name in known for line in printed.splitlines() if name in line}
    assert costs == {
        name: f"{1e6 * facts.flops / (plan.ASSUMED_MFU * device.bf16_flops):,.2f}" for name, device in known.items()
    }
    assert len(costs) > 3
    assert "cost unknown" not in printed


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
    tries = [[plan.seconds_per_row(recipe, "cpu", "fp32") for recipe in (shallow, deep)] for _ in range(3)]
    few, many = (sorted(found)[1] for found in zip(*tries, strict=True))
    assert few < many < 100 * few
