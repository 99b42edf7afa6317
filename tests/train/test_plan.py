"""Facts that follow from a recipe before anything runs."""

from __future__ import annotations

import pytest
import torch

from slm.core.errors import UserError
from slm.model.transformer import build
from slm.recipe import build_recipe
from slm.train import speed
from slm.train.plan import announce, attention_backend, plan
from slm.train.probe import Probe

RECIPE = build_recipe(
    {
        "shards": {"seq_len": 128},
        "model": {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn_width": 128},
        "train": {"tokens": 1_000_000, "batch_tokens": 4096},
    }
)


def test_steps_are_whole_and_cover_the_tokens():
    facts = plan(RECIPE)
    assert facts.steps == 245
    assert facts.tokens == 245 * 4096
    assert facts.batch_rows == 32


def test_a_budget_of_operations_ends_the_training_at_the_last_step_that_fits():
    whole = plan(RECIPE)
    step = whole.flops / whole.steps
    for steps, budget in ((100, 100.5 * step), (100, 100.0 * step * (1 + 1e-12)), (245, 1e30), (245, whole.flops)):
        facts = plan(_limited(budget))
        assert (facts.steps, facts.tokens) == (steps, steps * 4096)
        assert facts.flops <= budget
    ramped = {"batch_ramp": {"start_tokens": 1024, "ramp_tokens": 200_000}}
    facts = plan(_limited(60 * step, **ramped))
    assert 59 * 4096 < facts.tokens <= 60 * 4096
    assert facts.flops <= 60 * step


def test_a_budget_that_is_smaller_than_the_warm_up_or_a_step_is_refused():
    step = plan(RECIPE).flops / 245
    with pytest.raises(UserError, match=r"^train.max_flops \(.*\) pays for .* tokens, less than the warm-up or one"):
        plan(_limited(0.9 * step))
    with pytest.raises(UserError, match=r"or one step \(50,000\); raise it, or take a smaller model$"):
        plan(_limited(5 * step, schedule={"warmup_tokens": 50_000}))


def _limited(flops: float, **train: object):
    train = {"tokens": 1_000_000, "batch_tokens": 4096, "schedule": {"warmup_tokens": 0}, **train, "max_flops": flops}
    return build_recipe({"shards": {"seq_len": 128}, "model": RECIPE.model.model_dump(), "train": train})


def test_parameters_are_those_of_the_real_model():
    assert plan(RECIPE).num_parameters == sum(p.numel() for p in build(RECIPE.model, 0).parameters())


def test_the_facts_are_printed_with_the_expected_time(capsys, monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 50e9)
    meter = speed.Meter(RECIPE.model, "cpu", "fp32")
    announce(RECIPE, plan(RECIPE), "cpu", "fp32", epochs=2.0, probed=Probe(0.5, fused=False), meter=meter)
    printed = capsys.readouterr().out
    assert "1,003,520 tokens in 245 steps of 4,096 (2.00 epochs" in printed
    assert "about 2 min 02 s at 8,192 tokens/s" in printed
    rate = plan(RECIPE).flops / 245 / 0.5
    share = f"{100 * rate / 50e9:.0f} % of this machine's measured fp32 matmul rate (50 GFLOP/s; data sheet unknown)"
    assert f"{rate / 1e9:.0f} GFLOP/s, {share}" in printed
    choice = "attention by sdpa (auto: varlen needs an NVIDIA GPU, but the model is on cpu)"
    assert f"train: {choice}; blocks run module by module\n" in printed
    assert f"fp32 on cpu with {torch.get_num_threads()} threads" in printed


def test_a_backend_that_cannot_train_here_is_refused_before_training():
    flex = RECIPE.model_copy(update={"model": RECIPE.model.model_copy(update={"attention": "flex"})})
    with pytest.raises(UserError, match=r"^model.attention \(flex\) computes no gradients on a CPU; set"):
        attention_backend(flex, "cpu", "fp32")
