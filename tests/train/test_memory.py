"""Predicted memory against what torch's allocator really handed out."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.objective import build as build_objective
from slm.objective.config import ObjectiveConfig
from slm.train import memory
from slm.train.config import OptimizerConfig
from slm.train.memory import blank_batch, divisors, largest_that_fits, optimizer_bytes, predict
from slm.train.optim import Optimizer

SMALL = {"heads": 4, "head_dim": 32, "ffn_width": 256, "width": 128}
SHAPES = {
    "deep": ModelConfig(**SMALL, vocab_size=512, layers=6, kv_heads=2, max_seq_len=128),
    "long": ModelConfig(**SMALL, vocab_size=512, layers=2, kv_heads=4, max_seq_len=512, qk_norm=True),
    "vocabulary": ModelConfig(**SMALL, vocab_size=8192, layers=2, kv_heads=1, max_seq_len=128, tie_embeddings=False),
    "wide": ModelConfig(
        vocab_size=1024, width=384, layers=3, heads=6, kv_heads=2, head_dim=64, ffn_width=1024, max_seq_len=256
    ),
}


def measured_peak(config: ModelConfig, rows: int, precision: str) -> int:
    """The most bytes that torch's CPU allocator had out during a second micro-batch, with weights and gradients."""
    objective, model = build_objective(ObjectiveConfig()), build(config, 0)
    batch = blank_batch(rows, config.max_seq_len)
    batch.documents_BT[:, config.max_seq_len // 2 :] = 1  # two documents a row, as in packed shards

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
            loss = objective(model, batch)
        loss.nats_sum.backward()

    once()
    standing = sum(p.nbytes + p.grad.nbytes for p in model.parameters() if p.grad is not None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        once()
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert peak > 0
    return standing + peak


@pytest.mark.filterwarnings("ignore")  # the profiler's own, about its clock
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_predicted_memory_is_within_a_tenth_of_measured(name, precision):
    config = SHAPES[name]
    for rows in (1, 8):
        use = predict(config, ObjectiveConfig(), "adamw", precision, rows, config.max_seq_len)
        assert use.total - use.optimizer == pytest.approx(measured_peak(config, rows, precision), rel=0.1)
        assert min(use.weights, use.gradients, use.logits, use.activations) > 0


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_bytes_of_the_optimizer_are_those_of_its_tensors(kind):
    model = build(SHAPES["deep"], 0)
    optimizer = Optimizer(model, OptimizerConfig(kind=kind))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    held = sum(tensor.nbytes for tensor in optimizer.state_tensors().values() if tensor.ndim)
    assert optimizer_bytes(SHAPES["deep"], kind) == held


def test_large_micro_batches_are_extrapolated_to_what_they_take(monkeypatch):
    config = SHAPES["wide"]
    simulated = predict(config, ObjectiveConfig(), "adamw", "fp32", 64, 256).total
    monkeypatch.setattr(memory, "SIMULATED_TOKENS", 16 * 256)
    assert predict(config, ObjectiveConfig(), "adamw", "fp32", 64, 256).total == pytest.approx(simulated, rel=0.01)


def test_one_micro_batch_a_step_needs_no_room_for_gradients_beside_it():
    config = SHAPES["vocabulary"]
    alone, more = (
        predict(config, ObjectiveConfig(), "adamw", "fp32", 1, 128, accumulates=accumulates).total
        for accumulates in (False, True)
    )
    assert alone < more


def test_the_largest_micro_batch_divides_the_batch_and_fits():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert largest_that_fits(divisors(12), lambda rows: rows * 10, 45) == 4
    assert largest_that_fits(divisors(12), lambda rows: rows * 10, 5) is None
