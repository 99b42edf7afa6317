"""The fused block against the modules that define it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slm.core.batch import Dropout
from slm.model import block as block_module
from slm.model.attention import Plan
from slm.model.block import Block, set_recompute
from slm.model.config import ModelConfig
from slm.model.fused import reason_against
from slm.model.transformer import Transformer, build

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn_width": 96,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "qk_norm": {"qk_norm": True},
    "window": {"sliding_window": 7},
    "ungrouped": {"kv_heads": 4},
    "untied": {"tie_embeddings": False},
}


def made(**changes: Any) -> Transformer:
    model = build(ModelConfig(**SHAPE | changes), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms of ones would hide a norm that is left out
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(rows: int = 3, length: int = 40) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(2))


def packed(rows: int = 3, length: int = 40) -> Tensor:
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(3)).sort(1).values.int()


def learn(
    model: Transformer, documents_BT: Tensor | None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and gradients of a sum that weighs each of them differently."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(tokens(), documents_BT=documents_BT)
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    (logits * weight).mean().backward()  # type: ignore[no-untyped-call]
    return logits.detach(), {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }


def by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "reason_against", lambda *_: "compared")


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("documents_BT", [None, packed()], ids=["one document", "packed"])
def test_logits_and_gradients_in_float32_are_those_of_the_modules(
    kind: str, documents_BT: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(**KINDS[kind])
    logits, gradients = learn(model, documents_BT)
    by_modules(monkeypatch)
    their_logits, theirs = learn(model, documents_BT)
    assert distance(logits, their_logits) < 1e-5
    assert gradients.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        assert distance(gradient, theirs[name]) < 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_gradients_are_as_near_the_truth_as_those_of_the_modules(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(**KINDS[kind])
    _, gradients = learn(model, packed(), torch.bfloat16)
    by_modules(monkeypatch)
    _, theirs = learn(model, packed(), torch.bfloat16)
    _, truth = learn(model, packed())
    for name, gradient in gradients.items():
        assert distance(gradient, truth[name]) < max(0.02, 1.5 * distance(theirs[name], truth[name])), name


def test_the_same_input_gives_the_same_bits_twice() -> None:
    model = made()
    first, again = (learn(model, packed(), torch.bfloat16) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])


def test_weights_that_changed_are_seen_by_the_next_forward() -> None:
    model = made()
    before, gradients = learn(model, None, torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 10 * gradients[name]
    after, _ = learn(model, None, torch.bfloat16)
    fresh = made()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after, learn(fresh, None, torch.bfloat16)[0])
    assert not torch.equal(after, before)


def test_gradients_of_two_micro_batches_add_up() -> None:
    model = made()
    _, once = learn(model, None)
    for _ in range(2):
        logits = model(tokens())
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 3 * once[name])


def test_packed_rows_give_the_logits_of_their_documents_alone() -> None:
    model, ids = made(), tokens(rows=1, length=30)
    cut = 12
    documents_BT = torch.tensor([[0] * cut + [1] * (30 - cut)], dtype=torch.int32)
    positions_BT = torch.cat((torch.arange(cut), torch.arange(30 - cut))).unsqueeze(0)
    together = model(ids, positions_BT=positions_BT, documents_BT=documents_BT)
    alone = torch.cat((model(ids[:, :cut]), model(ids[:, cut:])), 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


class TestWhereItDoesNotApply:
    def reason(self, block: Block, how: Plan | None = None, device: str = "cpu") -> str:
        return reason_against(block, torch.zeros(1, 4, 64, device=device), how or Plan())

    def block(self) -> Block:
        block = made().blocks[0]
        assert isinstance(block, Block)
        assert self.reason(block) == ""
        return block

    def test_inference_takes_the_modules(self) -> None:
        block = self.block()
        with torch.no_grad():
            assert "training" in self.reason(block)

    def test_another_device_takes_the_modules(self) -> None:
        assert "training on a CPU" in self.reason(self.block(), device="meta")

    def test_a_hook_sees_the_modules_it_asked_for(self) -> None:
        model, seen = made(), []
        model.blocks[1].ffn.gate.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr,arg-type]
        learn(model, None)
        assert seen == [1]

    def test_an_adapter_in_place_of_a_matrix_is_computed(self) -> None:
        class Adapter(nn.Linear):
            """Something else than a plain product."""

        block = self.block()
        block.ffn.gate = Adapter(64, 96, bias=False)
        assert "Adapter" in self.reason(block)

    def test_dropout_takes_the_modules(self) -> None:
        block = self.block()
        x_BTW = torch.zeros(1, 4, 64)
        assert "random" in reason_against(block, x_BTW, Plan(), Dropout(0.1, 0.0, (0.0, 0.0), (0,)))
        assert "random" in reason_against(block, x_BTW, Plan(), Dropout(0.0, 0.0, (0.1, 0.1), (0,)))
        assert not reason_against(block, x_BTW, Plan(), Dropout(0.0, 0.5, (0.0, 0.1), (0,))), "only embeddings thin out"

    def test_a_block_that_shall_not_fuse_takes_the_modules(self) -> None:
        block = self.block()
        block.fuses = False
        assert "run one by one" in self.reason(block)

    def test_a_frozen_weight_takes_the_modules(self) -> None:
        block = self.block()
        block.attention.q.weight.requires_grad_(False)
        assert "frozen" in self.reason(block)

    def test_selective_recomputation_takes_the_modules(self) -> None:
        model = made()
        set_recompute(model, "selective")
        block = model.blocks[0]
        assert isinstance(block, Block)
        assert "computed once more" in self.reason(block)

    def test_other_kernels_and_single_tokens_take_the_modules(self) -> None:
        block = self.block()
        assert self.reason(block, Plan(backend="flex"))
        assert self.reason(block, Plan(causal=False))

    def test_a_bias_and_a_forward_of_its_own_are_computed(self) -> None:
        block = self.block()
        block.ffn.up.forward = block.ffn.up.forward  # type: ignore[method-assign]
        assert "hook" in self.reason(block)
        block = self.block()
        block.ffn.gate = nn.Linear(64, 96)
        assert "bias" in self.reason(block)
