"""The noise scale against problems whose scale is known, in runs, and over several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slm.train
from slm import plan
from slm.core.artifact import file_sha256
from slm.core.errors import UserError
from slm.train.metrics import NoMetrics
from slm.train.noise_scale import NoiseScale, advice, estimate
from slm.train.parallel import Parallel
from tests.train.readings import rows_of

PROGRAM = Path(__file__).with_name("processes.py")


class Kept(NoMetrics):
    def __init__(self):
        super().__init__()
        self.rows = []

    def write(self, kind, step, tokens, **values):
        self.rows.append({"kind": kind, "step": step, "tokens": tokens, **values})


def test_two_sizes_tell_noise_and_gradient_apart():
    gradient, noise = 3.0, 400.0
    assert estimate(gradient + noise / 8, 8, gradient + noise / 64, 64) == pytest.approx((gradient, noise))


def test_on_a_quadratic_the_estimate_is_the_closed_form(tmp_path):
    """Loss 0.5 |w - x|^2 with x normal about 0: gradient w, noise of variance 9 in each of 40 directions."""
    draw = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(40, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.5)
    kept, scale = Kept(), NoiseScale(1, tmp_path, model, Parallel())
    sizes = [4, 16, 8, 0, 12]
    for step in range(400):
        for size in sizes:
            points = 3.0 * torch.randn(size, 40, generator=draw)
            (0.5 * (model.weight - points).square().sum() / sum(sizes)).backward()
            scale.add(step, size)
        scale.write(float(model.weight.grad.norm()), False, kept, step + 1, 0)
        model.zero_grad()
    signal, noise = (sum(row[name] for row in kept.rows) / 400 for name in ("gradient_squared", "noise_variance"))
    assert signal == pytest.approx(40 * 0.25, rel=0.05)
    assert noise == pytest.approx(40 * 9, rel=0.05)
    assert kept.rows[-1]["noise_scale_tokens"] == pytest.approx(36, rel=0.3)
    assert kept.rows[-1]["measurements"] == 400


def test_smoothed_figures_are_means_of_the_last_measurements(tmp_path, monkeypatch):
    kept, scale = Kept(), NoiseScale(1, tmp_path, torch.nn.Linear(1, 1), Parallel())
    monkeypatch.setattr("slm.train.noise_scale.estimate", lambda *_: (2.0, 6.0) if len(kept.rows) < 10 else (4.0, 0.0))
    for step in range(1, 13):
        scale.targets, scale.squares = [4.0, 4.0], [1.0, 1.0]
        scale.write(1.0, False, kept, step, 0)
    assert [row["noise_scale_tokens"] for row in kept.rows[:10]] == pytest.approx([3.0] * 10)
    assert [row["smoothed_gradient_squared"] for row in kept.rows[9:]] == pytest.approx([2.0, 2.2, 2.38])


def test_a_run_that_measures_learns_the_same_and_goes_on_smoothing_where_it_was(make_recipe, train_until_step):
    plain, unbroken, broken = (
        make_recipe(name, micro_batch_rows=2, noise_scale_every_steps=every)
        for name, every in (("not-noisy", 0), ("noisy", 2), ("noisy-broken", 2))
    )
    hashes = [
        file_sha256(slm.train.run(recipe).file("model-00001-of-00001.safetensors")) for recipe in (plain, unbroken)
    ]
    assert hashes[0] == hashes[1]
    rows = rows_of(unbroken, "noise")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert [row["measurements"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["noise_scale_tokens"] > 0
    train_until_step(broken, 6)
    slm.train.run(broken)
    assert rows_of(broken, "noise") == rows


def test_refused_steps_and_single_micro_batches_are_not_measured(tmp_path):
    kept, scale = Kept(), NoiseScale(1, tmp_path, torch.nn.Linear(1, 1), Parallel())
    for refused, squares in ((True, [1.0, 2.0]), (False, [1.0])):
        scale.targets, scale.squares = [4.0] * len(squares), squares
        scale.write(1.0, refused, kept, 1, 0)
    assert kept.rows == []


def test_steps_of_one_micro_batch_are_refused(make_recipe):
    with pytest.raises(UserError, match=r"every_steps \(3\) needs at least 2 micro-batches.*lower train\.micro_batch"):
        slm.train.run(make_recipe("one-micro-batch", micro_batch_rows=8, noise_scale_every_steps=3))


def test_the_plan_says_what_the_noise_scale_suggests(make_recipe, tmp_path, capsys):
    recipe = make_recipe("advised", runs_dir=str(tmp_path), probe=False)
    assert advice(recipe.folder("train"), 256) == ""
    recipe.folder("train").mkdir(parents=True)
    row = '{"kind": "noise", "step": 8, "tokens": 2048, "noise_scale_tokens": 768.2}\n'
    (recipe.folder("train") / "metrics.jsonl").write_text(row)
    plan.run(recipe)
    printed = capsys.readouterr().out
    assert "gradient noise scale 768 tokens at step 8: steps of 256 take 4 times the fewest steps" in printed
    assert "1.33 times the fewest tokens" in printed


def test_two_processes_measure_what_one_does(make_recipe):
    settings = {"tokens": 4 * 256, "noise_scale_every_steps": 2, "statistics_every_steps": 2}
    ones, twos = (make_recipe(f"alone-{rows}", **settings, micro_batch_rows=rows) for rows in (1, 2))
    copies = make_recipe("noisy-ddp", **settings, micro_batch_rows=1)
    shards = make_recipe("noisy-shards", **settings, micro_batch_rows=1, parallel="full_shard")
    for recipe in (ones, twos):
        slm.train.run(recipe)
    words = []
    for recipe in (copies, shards):
        words.append(str(Path(recipe.runs_dir) / f"{recipe.run}.json"))
        Path(words[-1]).write_text(recipe.model_dump_json())
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *start], check=True, capture_output=True, timeout=120, env=environment)
    for mine, reference, kind in (
        (copies, ones, "noise"),
        (shards, twos, "noise"),
        (copies, ones, "layers"),
        (shards, ones, "layers"),
    ):
        assert len(rows_of(mine, kind)) == 2
        for row, expected in zip(rows_of(mine, kind), rows_of(reference, kind), strict=True):
            assert {name: value for name, value in row.items() if name != "kind"} == pytest.approx(
                {name: value for name, value in expected.items() if name != "kind"}, rel=2e-3
            )
