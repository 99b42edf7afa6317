"""Activation checkpointing: the same gradients bit for bit, less kept, and no product computed twice."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slm.model import block
from slm.model.block import set_recompute
from slm.model.config import ModelConfig
from slm.model.recompute import Recompute
from slm.model.transformer import Transformer, build

Shape = Callable[..., ModelConfig]
KINDS: tuple[Recompute, ...] = ("none", "selective", "full")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
        yield


def gradients(model: Transformer, packed: Any, precision: str = "fp32") -> list[Tensor]:
    model.zero_grad()
    with products_in(precision):
        hidden = model.hidden(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
    hidden.float().square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the modules of a block run one by one."""
    monkeypatch.setattr(block, "reason_against", lambda *_: "compared")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_are_equal_bit_for_bit(
    shape: Shape, packed: Any, precision: str, qk_norm: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        by_modules(monkeypatch)
    found = {}
    for kind in KINDS:
        model = build(shape(qk_norm=qk_norm, layers=3), 0)
        set_recompute(model, kind)
        found[kind] = gradients(model, packed, precision)
        assert len(found[kind]) == len(list(model.parameters())) - (model.head is not None)
    for kind in KINDS[2:] if fused else KINDS[1:]:  # a block of one piece has no parts to select
        assert all(torch.equal(ours, plain) for ours, plain in zip(found[kind], found["none"], strict=True))


def test_selective_computes_no_product_and_no_attention_twice(
    shape: Shape, packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_modules(monkeypatch)
    counts = {}
    for kind in KINDS:
        model = build(shape(layers=3), 0)
        set_recompute(model, kind)
        with Operations() as operations:
            gradients(model, packed)
        counts[kind] = operations.counts
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert counts["selective"]["aten::mm"] == counts["none"]["aten::mm"] == 3 * 21
    assert counts["selective"][attention] == counts["none"][attention] == 3
    assert counts["selective"]["aten::silu"] == 2 * counts["none"]["aten::silu"] == 6
    assert counts["full"]["aten::mm"] == 3 * (21 + 6), "all but down, whose output no gradient asks for"
    assert counts["full"][attention] == 6


def test_less_is_kept_for_backward(shape: Shape, packed: Any) -> None:
    kept = {}
    for kind in KINDS:
        model = build(shape(layers=3), 0)
        set_recompute(model, kind)
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes, weights: set[int] = weights) -> Tensor:
            if tensor.data_ptr() not in weights:
                sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = model.hidden(packed.tokens_BT)
        kept[kind] = sum(sizes.values())
        assert hidden.requires_grad
    assert kept["selective"] < 0.5 * kept["none"], "what policies store is not asked for here, but in test_memory"
    assert kept["full"] < 0.5 * kept["none"]


class Noise(nn.Module):
    """A feed-forward that draws random numbers, as dropout does."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5).square()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_random_numbers_repeat_themselves_and_go_on(shape: Shape, packed: Any, kind: Recompute) -> None:
    found, states = [], []
    for each in ("none", kind):
        model = build(shape(), 0)
        set_recompute(model, each)
        for layer in model.blocks:
            layer.ffn = Noise()
        torch.manual_seed(5)
        found.append(gradients(model, packed))
        states.append(torch.get_rng_state())
    assert all(torch.equal(ours, plain) for ours, plain in zip(found[1], found[0], strict=True))
    assert torch.equal(states[0], states[1])


def test_nothing_is_recomputed_where_no_gradients_are_wanted(
    shape: Shape, packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slm.model.recompute.checkpoint", lambda *_, **__: pytest.fail("recomputes"))
    model = build(shape(), 0)
    set_recompute(model, "full")
    with torch.no_grad():
        model(packed.tokens_BT)


def test_a_block_says_whether_something_looks_inside(shape: Shape) -> None:
    model = build(shape(), 0)
    assert not any(layer.as_written for layer in model.blocks)
    set_recompute(model, "selective")
    assert all(layer.as_written for layer in model.blocks)
