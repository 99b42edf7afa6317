"""Shapes: B rows, T queries, K keys, H heads, G key/value heads, D head_dim."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slm.model import attention
from slm.model.attention import Plan, attend, plan, visible
from slm.model.backends import Choice
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.flex import block_mask
from slm.model.transformer import build

CPU = torch.device("cpu")


def by_definition(documents: list[int], query: int, key: int, window: int) -> bool:
    near = not window or query - key < window
    return key <= query and documents[key] == documents[query] and near


@given(
    documents=st.lists(st.integers(-1, 3), min_size=1, max_size=12).map(sorted),
    window=st.integers(0, 5),
    cached=st.integers(0, 11),
)
def test_a_token_sees_itself_and_its_documents_past_inside_the_window(
    documents: list[int], window: int, cached: int
) -> None:
    num_keys = len(documents)
    num_queries = max(1, num_keys - cached)
    found = visible(torch.tensor([documents]), num_queries, num_keys, window, CPU)[0]
    for row, query in enumerate(range(num_keys - num_queries, num_keys)):
        assert found[row].tolist() == [by_definition(documents, query, key, window) for key in range(num_keys)]
    assert found.any(1).all(), "a row that attends to nothing would be NaN"


def made(config: ModelConfig, num_tokens: int, documents: Tensor | None = None, cache: KVCache | None = None) -> Plan:
    batch = 1 if documents is None else documents.shape[0]
    return plan(config, torch.Size([batch, num_tokens]), torch.float32, CPU, documents, cache)


def test_no_mask_is_made_where_every_row_is_one_document(shape: Callable[..., ModelConfig]) -> None:
    whole = torch.tensor([[0] * 8, [1] * 8])
    assert made(shape(), 8) == Plan(causal=True)
    assert made(shape(), 8, whole) == Plan(causal=True)
    assert made(shape(sliding_window=8), 8, whole) == Plan(causal=True)
    assert made(shape(), 1) == Plan(causal=False)
    split = made(shape(), 8, torch.tensor([[0] * 8, [0] * 5 + [1] * 3]))
    assert split.mask_BTK is not None
    assert not split.causal
    assert split.mask_BTK.shape == (2, 1, 8, 8)
    narrow = made(shape(sliding_window=7), 8)
    assert narrow.mask_BTK is not None
    assert narrow.mask_BTK.shape == (1, 1, 8, 8)


def test_a_cache_with_a_window_is_read_only_as_far_as_the_window_reaches(shape: Callable[..., ModelConfig]) -> None:
    config = shape(sliding_window=4)
    cache = KVCache(config, 1, 32)
    cache.length = 20
    assert made(config, 1, cache=cache) == Plan(causal=False, first_slot=17)
    chunk = made(config, 3, cache=cache)
    assert chunk.first_slot == 17
    assert chunk.mask_BTK is not None
    assert chunk.mask_BTK.isfinite().sum(-1).flatten().tolist() == [4, 4, 4]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_its_definition(packed: Any, kv_heads: int) -> None:
    documents = packed.documents_BT
    q, k, v = torch.randn(3, 24, 4, 8), torch.randn(3, 24, kv_heads, 8), torch.randn(3, 24, kv_heads, 8)
    sees = visible(documents, 24, 24, 0, CPU)
    wide_k, wide_v = (x.repeat_interleave(4 // kv_heads, dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, wide_k) / math.sqrt(8)
    weights = scores.masked_fill(~sees[:, None], -math.inf).softmax(-1)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights, wide_v)
    how = made(ModelConfig(), 24, documents)
    torch.testing.assert_close(attend(q, k, v, how), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["flash_attn", "varlen"])
def test_kernels_are_given_boundaries_and_window_instead_of_a_mask(
    shape: Callable[..., ModelConfig], monkeypatch: pytest.MonkeyPatch, name: Literal["flash_attn", "varlen"]
) -> None:
    monkeypatch.setattr(attention, "choose", lambda *_, **__: Choice(name, "made to"))
    config = shape(sliding_window=6)
    how = made(config, 8, torch.tensor([[0] * 5 + [1] * 3]))
    assert how.mask_BTK is None
    assert how.where is not None
    assert how.where.cu_seqlens.tolist() == [0, 5, 8]
    assert how.window == 6
    kernel = {"flash_attn": "attend_flash", "varlen": "attend_varlen"}[name]
    monkeypatch.setattr(attention, kernel, lambda *arguments: arguments[3:])
    q = torch.zeros(1, 8, 4, 16)
    assert attend(q, q, q, how) == (how.where, 6)
    assert made(config, 8, cache=KVCache(config, 1, 8)).backend == "sdpa", "cached decoding takes SDPA"


def test_blocks_are_made_once_for_all_layers(
    shape: Callable[..., ModelConfig], packed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(attention, "block_mask", lambda *given: calls.append(given) or block_mask(*given))
    model = build(shape(attention="flex", sliding_window=5), 0)
    with torch.no_grad():
        found = model(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
        assert len(calls) == 1
        model.config = shape(attention="sdpa", sliding_window=5)
        expected = model(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
