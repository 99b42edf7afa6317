from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from slm.core.errors import UserError
from slm.model.attention import visible
from slm.model.flash import attend_varlen, boundaries, installed

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


def stand_in(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **options: Any
) -> Tensor:
    """What flash-attn documents about this function, by SDPA, one document after the other."""
    assert options["causal"]
    assert torch.equal(cu_q, cu_k)
    left, right = options["window_size"]
    assert right == (0 if left >= 0 else -1)
    pieces = []
    for start, stop in pairwise(cu_q.tolist()):
        assert stop - start <= min(max_q, max_k)
        sees = visible(None, stop - start, stop - start, left + 1, CPU)
        piece = (x[start:stop].transpose(0, 1)[None] for x in (q, k, v))
        out = functional.scaled_dot_product_attention(*piece, attn_mask=sees, enable_gqa=True)
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("window", [0, 3])
def test_the_call_computes_what_the_mask_computes(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    documents_BT = torch.tensor([rows([3, 4], 9), rows([9], 9)])
    q, k, v = torch.randn(2, 9, 4, 8), torch.randn(2, 9, 2, 8), torch.randn(2, 9, 2, 8)
    found = attend_varlen(q, k, v, boundaries(documents_BT, 2, 9, CPU), window)
    mask = visible(documents_BT, 9, 9, window, CPU)[:, None]
    parts = (x.transpose(1, 2) for x in (q, k, v))
    expected = functional.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    q = torch.zeros(1, 2, 1, 8)
    with pytest.raises(UserError, match=r"run pip install 'slm\[gpu\]' or set model.attention=sdpa"):
        attend_varlen(q, q, q, boundaries(None, 1, 2, CPU), 0)


def test_looking_for_the_package_does_not_import_it() -> None:
    installed()
    assert "flash_attn" not in sys.modules
