"""Which parameters get which optimizer, and state that survives a round trip."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from slm.core.errors import DamagedError, UserError
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.train.config import OptimizerConfig, TrainConfig
from slm.train.optim import Optimizer, offloads, split_parameters
from tests.operations import Operations

SHAPE = ModelConfig(
    vocab_size=64, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn_width=32, max_seq_len=16, qk_norm=True
)


def step(model: torch.nn.Module, optimizer: Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step(0.5)


def test_norms_embeddings_and_head_are_not_among_the_matrices():
    model = build(SHAPE.model_copy(update={"tie_embeddings": False}), 0)
    matrices, others = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in matrices} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert {names[id(p)].split(".")[-2] for p in others} == {
        "embedding", "head", "norm", "attention_norm", "ffn_norm", "q_norm", "k_norm",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_decay(kind):
    model = build(SHAPE, 0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = Optimizer(model, OptimizerConfig(kind=kind, lr=0.1, muon_lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2
        expected = before[name] * (1 - 0.1 * 0.5) if is_matrix else before[name]
        torch.testing.assert_close(parameter.detach(), expected, msg=name)


def test_adamw_equals_the_textbook_update():
    model = build(SHAPE, 0)
    weight = model.embedding.weight
    before = weight.detach().clone()
    config = OptimizerConfig(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8)
    optimizer = Optimizer(model, config)
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    for parameter in model.parameters():
        parameter.grad = gradient.clone() if parameter is weight else torch.zeros_like(parameter)
    optimizer.step(1.0)
    torch.testing.assert_close(weight.detach(), before - 0.01 * gradient / (gradient.abs() + 1e-8))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_adamw_updates_a_group_of_parameters_in_one_fused_operation(kind):
    model = build(SHAPE, 0)
    optimizer = Optimizer(model, OptimizerConfig(kind=kind))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with Operations() as seen:
        optimizer.step(1.0)
    counts = Counter(seen.names)
    assert counts["aten._fused_adamw_"] == (2 if kind == "adamw" else 1)  # what decays, and what does not
    assert counts["aten.addcdiv_"] == 0, "the update of one parameter after the other"
    assert counts["aten.lerp_"] == (0 if kind == "adamw" else len(split_parameters(model)[0])), "Muon's momentum alone"


@pytest.mark.parametrize(("kind", "offload"), [("adamw", False), ("muon", False), ("adamw", True)])
def test_restored_state_continues_bit_for_bit(kind, offload):
    """Also where it is restored into an optimizer that works on copies of the weights."""
    config = OptimizerConfig(kind=kind)
    unbroken = build(SHAPE, 0)
    optimizer = Optimizer(unbroken, config)
    step(unbroken, optimizer, 1)
    resumed = build(SHAPE, 1)
    second = Optimizer(resumed, config, offload=offload)
    resumed.load_state_dict(unbroken.state_dict())
    second.load_state_tensors({name: value.clone() for name, value in optimizer.state_tensors().items()})
    step(unbroken, optimizer, 2)
    step(resumed, second, 2)
    for (name, mine), other in zip(unbroken.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_a_restart_without_state_differs():
    config = OptimizerConfig(kind="muon")
    unbroken = build(SHAPE, 0)
    optimizer = Optimizer(unbroken, config)
    step(unbroken, optimizer, 1)
    resumed = build(SHAPE, 0)
    resumed.load_state_dict(unbroken.state_dict())
    step(resumed, Optimizer(resumed, config), 2)
    step(unbroken, optimizer, 2)
    assert not torch.equal(unbroken.blocks[0].ffn.up.weight, resumed.blocks[0].ffn.up.weight)


def test_state_beside_the_cpu_is_refused_where_there_is_only_a_cpu():
    with pytest.raises(UserError, match=r"offload_optimizer is true, but training runs on the CPU, .*; leave it out"):
        offloads(TrainConfig(offload_optimizer=True), "cpu")
    assert offloads(TrainConfig(offload_optimizer=True), "cuda")
    assert not offloads(TrainConfig(), "cpu")
    with pytest.raises(ValueError, match=r"offload_optimizer \(true\) must go with optimizer\.kind adamw"):
        TrainConfig(offload_optimizer=True, optimizer=OptimizerConfig(kind="muon"))


def test_state_of_another_model_is_refused():
    optimizer = Optimizer(build(SHAPE, 0), OptimizerConfig())
    with pytest.raises(DamagedError, match="belongs to no parameter of this model"):
        optimizer.load_state_tensors({"adamw.exp_avg.blocks.9.ffn.up.weight": torch.zeros(1)})
