"""Dropout in a run: scheduled in tokens, the same after a resume and however rows are divided, never in evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slm.train
from slm.core.artifact import file_sha256
from slm.core.batch import Batch
from slm.core.distributed import World
from slm.model import block
from slm.recipe import build_recipe
from slm.train import loop
from slm.train.config import DropoutConfig
from slm.train.dropout import strength, thin
from slm.train.metrics import read_metrics

ALL = {"rate": 0.1, "embedding_rate": 0.05, "drop_path": 0.2, "embedding_noise": 4.0}


PROGRAM = Path(__file__).with_name("processes.py")


def batches(*sizes, length=256):
    return [Batch(torch.zeros(rows, length, dtype=torch.int64), *[torch.zeros(0)] * 3, rows) for rows in sizes]


def recipe_with(**dropout):
    return build_recipe({"model": {"layers": 4}, "train": {"dropout": dropout}})


def weights(recipe):
    return file_sha256(slm.train.run(recipe).file("model-00001-of-00001.safetensors"))


def losses(recipe):
    return [row["loss"] for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, (1, 1, 1, 1)),
        ({"schedule": "early", "over": 0.5}, (1, 1, 0, 0)),
        ({"schedule": "linear", "over": 0.5}, (1, 0.5, 0, 0)),
        ({"schedule": "linear", "from_share": 0.2, "to_share": 1.0}, (0.2, 0.4, 0.6, 1)),
    ],
)
def test_rates_follow_the_schedule_in_tokens(settings, factors):
    config = DropoutConfig(rate=0.1, **settings)
    assert [strength(config, progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx(factors)


def test_deeper_layers_are_left_out_more_often_and_a_step_without_dropout_has_none():
    (batch,) = made = batches(2)
    thin(made, recipe_with(**ALL, schedule="linear"), step=0, progress=0.5)
    assert (batch.dropout.rate, batch.dropout.embedding_rate, batch.dropout.embedding_noise) == (0.05, 0.025, 2.0)
    assert batch.dropout.path_rates == pytest.approx((0.025, 0.05, 0.075, 0.1))
    (batch,) = made = batches(2)
    thin(made, recipe_with(embedding_noise=5.0), step=0, progress=0.5)
    assert batch.dropout.embedding_noise == 5.0
    for recipe in (recipe_with(), recipe_with(**ALL, schedule="early", over=0.4)):
        (batch,) = made = batches(2)
        thin(made, recipe, step=0, progress=0.5)
        assert batch.dropout is None


def test_a_row_has_the_same_seed_in_every_division_into_processes_and_micro_batches():
    recipe = recipe_with(**ALL)

    def seeds(sizes, rank=0, world_size=1, step=3, length=256):
        made = batches(*sizes, length=length)
        thin(made, recipe, step, 0.0, World(rank, world_size))
        return [seed for batch in made for seed in batch.dropout.seeds]

    whole = seeds([12])
    assert len(set(whole)) == 12
    assert seeds([4, 4, 4]) == seeds([1] * 12) == whole
    for world_size, sizes in ((2, [3, 3]), (3, [4]), (4, [1, 1, 1])):
        for rank in range(world_size):
            assert seeds(sizes, rank, world_size) == whole[rank::world_size]
    assert not set(seeds([12], step=4)) & set(whole)
    cut = seeds([24], length=128)  # a curriculum's halves of 12 rows
    assert len(set(cut)) == 24
    assert seeds([4, 4, 4], 1, 2, length=128) == [
        seed for row in range(1, 12, 2) for seed in cut[2 * row : 2 * row + 2]
    ]


def test_a_run_with_dropout_resumes_bit_for_bit_and_differs_from_one_without(make_recipe, monkeypatch):
    unbroken, broken = (make_recipe(name, dropout=ALL) for name in ("dropping", "dropping-broken"))
    expected = weights(unbroken)
    assert expected != weights(make_recipe("dropping-nothing"))
    steps, inner = [], loop.forward_backward

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "forward_backward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            slm.train.run(broken)
    assert broken.artifact("train").counts["step"] == 4
    assert weights(broken) == expected
    assert losses(broken) == losses(unbroken)


def test_micro_batches_do_not_change_what_is_left_out(make_recipe):
    small, large = (make_recipe(f"dropping-{rows}", dropout=ALL, micro_batch_rows=rows) for rows in (1, 8))
    for recipe in (small, large):
        slm.train.run(recipe)
    assert losses(small) == pytest.approx(losses(large), rel=1e-5)


def test_two_processes_leave_out_what_one_does(make_recipe):
    alone, together = (make_recipe(name, dropout=ALL, tokens=4 * 256) for name in ("drop-alone", "drop-together"))
    slm.train.run(alone)
    file = Path(together.runs_dir) / "drop-together.json"
    file.write_text(together.model_dump_json())
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *start], check=True, capture_output=True, timeout=120, env=environment)
    assert losses(together) == pytest.approx(losses(alone), rel=2e-6)


def test_evaluation_and_samples_leave_nothing_out(make_recipe, monkeypatch):
    seen, inner = [], block.thinned

    def watching(x_BTD, dropout, layer, part):
        seen.append((torch.is_grad_enabled(), dropout is not None))
        return inner(x_BTD, dropout, layer, part)

    monkeypatch.setattr(block, "thinned", watching)
    slm.train.run(make_recipe("watched", tokens=5 * 256, dropout=ALL, sample_prompts=["def"]))
    assert (False, False) in seen
    assert (True, True) in seen
    assert (False, True) not in seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "early", "over": 0.5}, r"schedule \(early\) has no effect without a rate, drop_path or noise"),
        ({"rate": 0.1, "over": 0.5}, r"over \(0\.5\) has no effect with schedule constant; change one"),
        (
            {"rate": 0.1, "schedule": "early", "over": 0.5, "to_share": 0.5},
            r"to_share \(0\.5\) has no effect",
        ),
        ({"rate": 0.1, "schedule": "early"}, r"over \(1\.0\) must be less than 1 with schedule early"),
        ({"rate": 0.1, "schedule": "linear", "to_share": 1.0}, r"from_share \(1\.0\) must not equal to_share"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DropoutConfig(**settings)
