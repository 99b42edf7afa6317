"""Steps that grow: sizes from tokens alone, the same tokens in the same order, exact on resuming and rewinding."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import slm.plan
import slm.train
from slm.core.batch import Batch
from slm.core.errors import ProblemsError
from slm.recipe import Recipe
from slm.train import loop
from slm.train.batch_ramp import step_tokens, stretches
from slm.train.config import BatchRampConfig, TrainConfig
from slm.train.plan import plan
from tests.train.readings import figures, hashes

RAMP = {"batch_ramp": {"start_tokens": 128, "ramp_tokens": 1024}, "batch_tokens": 512, "tokens": 3328}
SIZES = [128, 128, 128, 256, 256, 384, 512, 512, 512, 512]
"""From 128 to 512 over 1,024 tokens: three growths, each after another 342 tokens."""


@settings(max_examples=200)
@given(st.integers(1, 64), st.integers(2, 40), st.integers(1, 3_000), st.integers(0, 3_000))
def test_stretches_are_the_steps_taken_one_by_one(start, further, ramp_tokens, rest):
    config = TrainConfig(
        tokens=ramp_tokens + rest,
        batch_tokens=start * further,
        batch_ramp=BatchRampConfig(start_tokens=start, ramp_tokens=ramp_tokens),
    )
    tokens, sizes = 0, list[int]()
    while tokens < config.tokens:
        sizes.append(step_tokens(config, tokens))
        tokens += sizes[-1]
    assert [size for steps, size in stretches(config) for _ in range(steps)] == sizes
    assert sizes[0] == start
    assert all(size % start == 0 and size <= config.batch_tokens for size in sizes)
    assert all(one <= other for one, other in itertools.pairwise(sizes))
    assert step_tokens(config, ramp_tokens) == config.batch_tokens
    for share in (0.0, 0.3, 0.9):  # linear, rounded down to whole multiples
        tokens = int(share * ramp_tokens)
        linear = start + tokens / ramp_tokens * (config.batch_tokens - start)
        assert linear - start < step_tokens(config, tokens) <= linear + 1e-6


def test_without_a_ramp_every_step_is_full():
    config = TrainConfig(tokens=10_000, batch_tokens=512)
    assert list(stretches(config)) == [(20, 512)]
    assert step_tokens(config, 0) == 512


def rows_of(steps: list[list[Batch]]) -> list[tuple[int, ...]]:
    return [tuple(row) for step in steps for batch in step for row in batch.tokens_BT.tolist()]


def test_growing_steps_take_the_rows_of_a_plain_run_in_its_order(make_recipe, watched):
    slm.train.run(make_recipe("steady", tokens=3328, batch_tokens=512))
    plain = rows_of(watched)
    watched.clear()
    recipe = make_recipe("growing", **RAMP)
    slm.train.run(recipe)
    assert [sum(batch.tokens_BT.numel() for batch in step) for step in watched] == SIZES
    assert rows_of(watched) == plain[: 3328 // 32]
    checkpoint = recipe.artifact("train")
    assert (checkpoint.counts["step"], checkpoint.counts["tokens"], checkpoint.counts["finished"]) == (10, 3328, True)
    state = json.loads(checkpoint.file("state.json").read_text())
    assert (state["loader"]["row"], state["loader"]["tokens"]) == (104, 3328)
    train = [row for row in figures(recipe) if row["kind"] == "train"]
    assert [row["tokens"] for row in train] == list(itertools.accumulate(SIZES))


def test_the_learning_rate_stands_at_the_middle_of_each_step(make_recipe):
    schedule = {"kind": "linear", "warmup_tokens": 0}
    recipe = make_recipe("slope", **RAMP, schedule=schedule, optimizer={"lr": 1.0})
    slm.train.run(recipe)
    middles = [end - size / 2 for end, size in zip(itertools.accumulate(SIZES), SIZES, strict=True)]
    train = [row for row in figures(recipe) if row["kind"] == "train"]
    assert [row["lr"] for row in train] == pytest.approx([1 - middle / 3328 for middle in middles])


def test_a_run_with_growing_steps_resumes_bit_for_bit(make_recipe, train_dying_in):
    unbroken, stopped = (make_recipe(name, **RAMP) for name in ("grown", "grown-stopped"))
    slm.train.run(unbroken)
    train_dying_in(stopped, 6, 9)  # among steps of 256; then, after the save at step 4, at the one of 384
    assert hashes(stopped) == hashes(unbroken)
    assert figures(stopped) == figures(unbroken)


def test_a_rewind_goes_past_the_rows_of_steps_of_different_sizes(make_recipe, monkeypatch):
    recipe = make_recipe("grown-rewound", **RAMP, guard={"max_skips": 3}, evaluate_every_steps=0)
    honest, calls = loop.forward_backward, 0

    def sick(run: Any, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        loss, norm = honest(run, *rest)
        return (math.nan if calls in (6, 7, 8) else loss), norm

    monkeypatch.setattr(loop, "forward_backward", sick)
    slm.train.run(recipe)
    rows = figures(recipe)
    skips = [(row["step"], row["first_row"], row["end_row"]) for row in rows if row["kind"] == "skip"]
    assert skips == [(6, 28, 40), (7, 40, 56), (8, 56, 72)]  # steps of 384, 512 and 512 tokens, rows of 32
    (back,) = [row for row in rows if row["kind"] == "rewind"]
    assert (back["to_step"], back["first_row"], back["end_row"]) == (4, 28, 72)
    report = json.loads((recipe.folder("train") / back["autopsy"]).read_text())
    assert [row["row"] for row in report["rows"]] == list(range(28, 72))
    checkpoint = recipe.artifact("train")
    assert (checkpoint.counts["step"], checkpoint.counts["tokens"]) == (10, 3328)
    # Steps 1 to 8, then 5 to 10 once more: the weights' own sizes, from rows further on.
    assert json.loads(checkpoint.file("state.json").read_text())["loader"]["row"] == 72 + sum(SIZES[4:]) // 32


def test_the_plan_counts_and_names_growing_steps(make_recipe, capsys):
    recipe = make_recipe("planned", **RAMP, probe=False)
    facts = plan(recipe)
    assert (facts.steps, facts.tokens, facts.batch_rows, facts.first_rows) == (10, 3328, 16, 4)
    slm.plan.run(recipe)
    assert "3,328 tokens in 10 steps of 128, growing to 512 over 1,024 tokens:" in capsys.readouterr().out
    loop.prepare(recipe, slm.train.specification(recipe))
    assert "3,328 tokens in 10 steps of 128, growing to 512 over 1,024 tokens (" in capsys.readouterr().out


def test_an_automatic_micro_batch_divides_the_first_step(make_recipe):
    recipe = make_recipe("auto-growing", **RAMP, micro_batch_rows="auto")
    run = loop.prepare(recipe, slm.train.specification(recipe))
    assert 4 % run.micro_rows == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_ramp": {"start_tokens": 128}}, r"start_tokens \(128\) has no effect without ramp_tokens \(0\)"),
        ({"batch_ramp": {"ramp_tokens": 128}}, r"ramp_tokens \(128\), nor the reverse; set both or neither"),
        (
            {"batch_ramp": {"start_tokens": 384, "ramp_tokens": 1024}},
            r"start_tokens \(384\) must divide batch_tokens \(512\) and be less; change one",
        ),
        (
            {"batch_ramp": {"start_tokens": 512, "ramp_tokens": 1024}},
            r"start_tokens \(512\) must divide batch_tokens \(512\) and be less; change one",
        ),
        (
            {"batch_ramp": {"start_tokens": 128, "ramp_tokens": 4096}},
            r"ramp_tokens \(4,096\) must not exceed tokens \(3,328\), or steps never reach",
        ),
        (
            {"batch_ramp": {"start_tokens": 64, "ramp_tokens": 1024}},
            r"batch_ramp\.start_tokens \(64\) must be a multiple of train\.micro_batch_rows .* the nearest is 128",
        ),
        (
            {"batch_ramp": {"start_tokens": 16, "ramp_tokens": 1024}, "micro_batch_rows": "auto"},
            r"batch_ramp\.start_tokens \(16\) must be a multiple of shards\.seq_len \(32\)",
        ),
    ],
)
def test_a_ramp_that_does_not_fit_is_refused(make_recipe: Callable[..., Recipe], changes, message):
    with pytest.raises(ProblemsError, match=rf"train.*{message}"):
        make_recipe("refused", **{**RAMP, **changes})


def test_the_growth_is_what_the_loader_reads_whatever_was_built_ahead(make_recipe):
    recipe = make_recipe("ahead", **RAMP, prefetch_steps=3)
    loader = loop.prepare(recipe, slm.train.specification(recipe)).state.loader
    plain = loop.prepare(make_recipe("behind", **RAMP, prefetch_steps=0), slm.train.specification(recipe)).state.loader
    for size in SIZES:
        one, other = (torch.cat([b.tokens_BT for b in each.step(size // 32)]) for each in (loader, plain))
        assert torch.equal(one, other)
    assert loader.state_dict() == plain.state_dict()
