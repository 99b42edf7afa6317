from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from slm.core.errors import UserError
from slm.model.attention import visible
from slm.model.backends import Choice
from slm.model.config import ModelConfig
from slm.model.flash import attend_flash, attend_varlen, boundaries
from slm.model.transformer import build

CPU = torch.device("cpu")


def rows(lengths: list[int], num_tokens: int) -> list[int]:
    """Document numbers of one row; what the lengths leave is padding."""
    numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
    return (numbers + [-1] * num_tokens)[:num_tokens]


@given(st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=4), st.integers(1, 12))
def test_boundaries_describe_the_same_attention_as_the_mask(lengths: list[list[int]], num_tokens: int) -> None:
    documents_BT = torch.tensor([rows(in_row, num_tokens) for in_row in lengths])
    batch = len(lengths)
    found = boundaries(documents_BT, batch, num_tokens, CPU)
    starts = found.cu_seqlens.tolist()
    assert starts[0] == 0
    assert starts[-1] == batch * num_tokens
    sees = torch.zeros(batch * num_tokens, batch * num_tokens, dtype=torch.bool)
    for start, stop in pairwise(starts):
        assert 0 < stop - start <= found.longest
        sees[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
    expected = torch.block_diag(*visible(documents_BT, num_tokens, num_tokens, 0, CPU).float()).bool()
    assert torch.equal(sees, expected)


def test_without_documents_every_row_is_one() -> None:
    found = boundaries(None, 3, 5, CPU)
    assert found.cu_seqlens.tolist() == [0, 5, 10, 15]
    assert found.cu_seqlens.dtype == torch.int32
    assert found.longest == 5


def by_documents(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int, window: int) -> Tensor:
    """Causal attention by SDPA, one document after the other, each query seeing `window` keys at most (0 for all)."""
    pieces = []
    for start, stop in pairwise(cu_seqlens.tolist()):
        assert stop - start <= longest
        sees = visible(None, stop - start, stop - start, window, CPU)
        piece = (x[start:stop].transpose(0, 1)[None] for x in (q, k, v))
        out = functional.scaled_dot_product_attention(*piece, attn_mask=sees, enable_gqa=True)
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces)


def flash_attn_stand_in(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **options: Any
) -> Tensor:
    """What flash-attn documents about this function."""
    assert options["causal"]
    assert torch.equal(cu_q, cu_k)
    left, right = options["window_size"]
    assert right == (0 if left >= 0 else -1)
    return by_documents(q, k, v, cu_q, min(max_q, max_k), left + 1)


def varlen_stand_in(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch 2.13 documents: (-1, 0) is causal, (W, 0) causal with W keys before the query's own."""
    assert torch.equal(cu_q, cu_k)
    assert cu_q.dtype == torch.int32
    assert enable_gqa == (q.shape[1] != k.shape[1])
    left, right = window_size
    assert right == 0, "without a bound on the right a query would see the future"
    return by_documents(q, k, v, cu_q, min(max_q, max_k), left + 1)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Tensor]]:
    """Both ways into the kernel, with a stand-in behind each."""
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_stand_in)
    return {"flash_attn": attend_flash, "varlen": attend_varlen}


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("name", ["flash_attn", "varlen"])
def test_the_call_computes_what_the_mask_computes(
    kernels: dict[str, Callable[..., Tensor]], name: str, window: int, kv_heads: int
) -> None:
    documents_BT = torch.tensor([rows([3, 4], 9), rows([9], 9)])
    q, k, v = torch.randn(2, 9, 4, 8), torch.randn(2, 9, kv_heads, 8), torch.randn(2, 9, kv_heads, 8)
    found = kernels[name](q, k, v, boundaries(documents_BT, 2, 9, CPU), window)
    mask = visible(documents_BT, 9, 9, window, CPU)[:, None]
    parts = (x.transpose(1, 2) for x in (q, k, v))
    expected = functional.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("name", ["flash_attn", "varlen"])
@pytest.mark.usefixtures("kernels")
def test_a_whole_model_by_the_kernel_equals_the_model_by_sdpa(
    shape: Callable[..., ModelConfig],
    packed: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: Literal["flash_attn", "varlen"],
    window: int,
) -> None:
    given = {"positions_BT": packed.positions_BT, "documents_BT": packed.documents_BT}
    model = build(shape(attention="sdpa", sliding_window=window), 0)
    expected = model(packed.tokens_BT, **given)
    expected.square().mean().backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    monkeypatch.setattr("slm.model.attention.choose", lambda *_, **__: Choice(name, "made to"))
    found = model(packed.tokens_BT, **given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    found.square().mean().backward()
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[key], atol=1e-6, rtol=1e-3)


def test_the_stand_in_takes_what_the_installed_torch_takes() -> None:
    from torch.nn.attention.varlen import varlen_attn

    real, ours = (list(inspect.signature(function).parameters.values()) for function in (varlen_attn, varlen_stand_in))
    assert [one.kind for one in real[:7]] == [one.kind for one in ours[:7]]
    keywords = {one.name: one.default for one in real}
    assert all(keywords[one.name] == one.default for one in ours[7:])


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(UserError, match=r"run pip install 'slm\[gpu\]' or set model.attention=varlen"):
        attend_flash(q, q, q, boundaries(None, 1, 2, CPU), 0)
