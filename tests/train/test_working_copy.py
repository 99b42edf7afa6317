"""bf16 weights with fp32 masters: what is rounded, what is not, and that a run with them resumes exactly."""

from __future__ import annotations

import statistics

import pytest
import torch
from safetensors.torch import load_file

import slm.train
from slm.core.artifact import file_sha256
from slm.core.errors import Stopped, UserError
from slm.model.block import recompute_of, set_recompute
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.train import loop
from slm.train.metrics import read_metrics
from slm.train.working_copy import working_copy

CONFIG = ModelConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=64)
TOKENS_BT = torch.arange(32).view(2, 16)
WEIGHTS, OPTIMIZER = "model-00001-of-00001.safetensors", "optimizer.safetensors"


@pytest.fixture(autouse=True)
def a_machine_with_bf16(monkeypatch):
    """Slow where the processor has no such instructions, but the same numbers."""
    monkeypatch.setattr("slm.train.precision.multiplies_bf16", lambda _device: True)


def losses(recipe, kind="train"):
    return [row["loss"] for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == kind]


def test_the_copy_is_the_master_rounded_and_follows_it():
    master = build(CONFIG, 0)
    set_recompute(master, "selective")
    working = working_copy(master, "bf16_weights")
    assert recompute_of(working.model) == "selective"
    with torch.no_grad():
        for parameter in master.parameters():
            parameter.add_(1e-3)
    names = [name for name, _ in working.model.named_parameters()]
    assert names == [name for name, _ in master.named_parameters()]
    for ours, theirs in zip(working.refresh().parameters(), master.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, theirs.to(torch.bfloat16))


def test_other_precisions_compute_with_the_weights_themselves():
    master = build(CONFIG, 0)
    for precision in ("fp32", "bf16"):
        assert working_copy(master, precision).refresh() is master


def test_gradients_of_micro_batches_add_up_in_float32_at_the_masters():
    master = build(CONFIG, 0)
    working = working_copy(master, "bf16_weights")
    single = []
    for row in TOKENS_BT:
        working.refresh()(row[None]).square().mean().backward()
        assert all(parameter.grad is None for parameter in working.model.parameters())
        single.append([parameter.grad.clone() for parameter in master.parameters()])
        master.zero_grad()
    for row in TOKENS_BT:
        working.refresh()(row[None]).square().mean().backward()
    for parameter, first, second in zip(master.parameters(), *single, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert torch.equal(first, first.to(torch.bfloat16).float()), "one gradient is rounded"
        assert torch.equal(parameter.grad, first + second), "their sum is not"


def test_the_residual_stream_is_bf16_and_norms_compute_in_float32():
    working = working_copy(build(CONFIG, 0), "bf16_weights")
    with torch.autocast("cpu", torch.bfloat16):
        hidden = working.model.hidden(TOKENS_BT)
    assert hidden.dtype == torch.bfloat16
    norm = working.model.norm
    x = torch.randn(4, 7, 32).to(torch.bfloat16)
    expected = torch.nn.functional.rms_norm(x.float(), (32,), norm.weight.float(), norm.eps)
    torch.testing.assert_close(norm(x), expected.to(torch.bfloat16), atol=0, rtol=2**-8)
    assert "_TrainedNorm" in type(norm(x).grad_fn).__name__


def test_a_run_learns_what_autocast_learns_and_publishes_its_masters(make_recipe):
    given = {"tokens": 30 * 256, "evaluate_every_steps": 10}
    recipes = [make_recipe(f"half-{name}", precision=name, **given) for name in ("bf16", "bf16_weights")]
    ends = [slm.train.run(recipe) for recipe in recipes]
    autocast, half = (losses(recipe) for recipe in recipes)
    assert half != autocast
    assert half == pytest.approx(autocast, rel=0.03)
    assert statistics.mean(half[-10:]) == pytest.approx(statistics.mean(autocast[-10:]), rel=0.01)
    assert losses(recipes[1], "evaluate")[-1] == pytest.approx(losses(recipes[0], "evaluate")[-1], rel=0.01)
    published = load_file(ends[1].file(WEIGHTS))
    assert all(tensor.dtype == torch.float32 for tensor in published.values())
    assert any(not torch.equal(tensor, tensor.to(torch.bfloat16).float()) for tensor in published.values())


def test_a_run_goes_on_bit_for_bit(make_recipe, monkeypatch):
    given = {"precision": "bf16_weights", "tokens": 8 * 256, "save_every_steps": 3, "ema_decay": 0.9}
    unbroken, stopped = make_recipe("half-unbroken", **given), make_recipe("half-stopped", **given)
    end = slm.train.run(unbroken)
    with monkeypatch.context() as patched:
        original = loop.save_step

        def save_and_stop(*arguments):
            original(*arguments)
            raise Stopped("after a save")

        patched.setattr(loop, "save_step", save_and_stop)
        for _ in range(2):
            with pytest.raises(Stopped, match="after a save"):
                slm.train.run(stopped)
    again = slm.train.run(stopped)
    for name in (WEIGHTS, OPTIMIZER, "weights.safetensors"):
        assert file_sha256(again.path / name) == file_sha256(end.path / name)
    assert losses(stopped) == losses(unbroken)


def test_shards_are_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"^train.precision \(bf16_weights\) cannot be sharded, for .+; set train.prec"):
        working_copy(build(CONFIG, 0), "bf16_weights", sharded=True)
