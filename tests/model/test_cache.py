from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from slm.core.errors import UserError
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer, build

OPTIONS: list[dict[str, Any]] = [
    {},
    {"kv_heads": 4},
    {"kv_heads": 1, "qk_norm": True},
    {"sliding_window": 5},
    {"sliding_window": 1, "kv_heads": 1},
    {"rope_scaling": {"kind": "linear", "factor": 2.0}, "tie_embeddings": False},
]
CHUNKS = [[1] * 18, [18], [5, 13], [7, 1, 1, 1, 8], [1, 17]]


def in_chunks(
    model: Transformer, tokens: Tensor, chunks: list[int], dtype: torch.dtype = torch.float32, **more: Tensor
) -> Tensor:
    cache = KVCache(model.config, tokens.shape[0], tokens.shape[1], dtype)
    out, start = [], 0
    for length in chunks:
        part = slice(start, start + length)
        out.append(model(tokens[:, part], cache=cache, **{name: value[:, part] for name, value in more.items()}))
        start += length
    assert cache.length == start
    return torch.cat(out, 1)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_decoding_in_chunks_equals_one_forward(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], options: dict[str, Any], chunks: list[int]
) -> None:
    model, ids = build(shape(**options), 3), tokens(2, 18)
    torch.testing.assert_close(in_chunks(model, ids, chunks), model(ids), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("chunks", [[1] * 24, [10, 14], [7, 1, 16]], ids=str)
def test_packed_documents_stay_apart_in_the_cache(
    shape: Callable[..., ModelConfig], packed: Any, window: int, chunks: list[int]
) -> None:
    model = build(shape(sliding_window=window), 3)
    more = {"documents_BT": packed.documents_BT, "positions_BT": packed.positions_BT}
    expected = model(packed.tokens_BT, **more)
    torch.testing.assert_close(in_chunks(model, packed.tokens_BT, chunks, **more), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_of_unequal_length_are_padded_on_the_left(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 3), tokens(1, 6)
    long = tokens(1, 9, seed=1)
    both = torch.cat((torch.cat((torch.zeros(1, 3, dtype=torch.int64), ids), 1), long))
    documents = torch.tensor([[-1] * 3 + [0] * 6, [0] * 9])
    positions = torch.tensor([[0, 1, 2, *range(6)], [*range(9)]])
    out = in_chunks(model, both, [6, 1, 2], documents_BT=documents, positions_BT=positions)
    torch.testing.assert_close(out[:1, 3:], model(ids), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[1:], model(long), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_can_be_emptied_cut_and_used_again(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids, others = build(shape(), 3), tokens(1, 10), tokens(1, 10, seed=5)
    cache = KVCache(model.config, 1, 10)
    model(others, documents_BT=torch.tensor([[0] * 4 + [1] * 6]), cache=cache)
    cache.reset()
    assert cache.length == 0
    torch.testing.assert_close(model(ids, cache=cache), model(ids), atol=1e-5, rtol=0)
    cache.truncate(4)
    again = model(others[:, 4:], cache=cache)
    expected = model(torch.cat((ids[:, :4], others[:, 4:]), 1))[:, 4:]
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_bfloat16_cache_serves_a_float32_model(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 3), tokens(1, 8)
    cache = KVCache(model.config, 1, 8, dtype=torch.bfloat16)
    torch.testing.assert_close(model(ids, cache=cache), model(ids), atol=0.1, rtol=0)
    assert cache.keys_LBSHD.dtype == torch.bfloat16


def test_a_full_cache_and_a_wrong_batch_are_refused(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model = build(shape(), 3)
    cache = KVCache(model.config, 2, 8)
    model(tokens(2, 6), cache=cache)
    with pytest.raises(UserError, match="room for 8 tokens, but this would be token 9; shorten"):
        model(tokens(2, 3), cache=cache)
    with pytest.raises(UserError, match="holds 2 rows, but 3 came; make a cache for 3 rows"):
        model(tokens(3, 1), cache=cache)
    assert cache.length == 6


@torch.no_grad()
def test_a_row_goes_on_from_another_cache_and_without_its_neighbours(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 3), tokens(3, 9)
    ids[:, :4] = ids[0, :4]
    once, cache = KVCache(model.config, 1, 4), KVCache(model.config, 3, 9)
    model(ids[:1, :4], cache=once)
    cache.fill(once)
    model(ids[:, 4:7], cache=cache)
    rows = torch.tensor([2, 0])
    cache.keep(rows)
    found = model(ids[rows, 7:], cache=cache)
    torch.testing.assert_close(found, model(ids)[rows, 7:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_a_token_sees_can_be_said_for_each(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 3), tokens(1, 6)
    two_ends = torch.cat((ids, ids[:, 4:].flip(1)), 1)  # a beginning of four and two continuations of it
    sees = torch.ones(8, 8, dtype=torch.bool).tril()
    sees[6:, 4:6] = False
    found = model.hidden(two_ends, positions_BT=torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]]), sees_BTK=sees[None])
    torch.testing.assert_close(found[:, :6], model.hidden(ids), atol=1e-5, rtol=0)
    other = torch.cat((ids[:, :4], ids[:, 4:].flip(1)), 1)
    torch.testing.assert_close(found[:, 6:], model.hidden(other)[:, 4:], atol=1e-5, rtol=0)


def dequantized(x: Tensor) -> Tensor:
    """What an int8 cache gives back, worked out number by number."""
    out = torch.empty_like(x)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in x.shape[:-1])).tolist():
        head = x[tuple(place)]
        scale = (head.abs().max() / 127).to(torch.float16).float() or torch.ones(())
        out[tuple(place)] = torch.stack([(number / scale).round().clamp(-127, 127) * scale for number in head])
    return out


@torch.no_grad()
def test_an_int8_cache_gives_back_each_head_of_each_token_rounded(shape: Callable[..., ModelConfig]) -> None:
    config = shape()
    cache, draw = KVCache(config, 2, 5, torch.int8), torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 3, config.kv_heads, config.head_dim, generator=draw) * 3 for _ in range(2))
    k[0, 1] = 0.0
    cache.reserve(None, 2, 3)
    keys, values = cache.store(1, k, v, 0)
    assert torch.equal(keys, dequantized(k))
    assert torch.equal(values, dequantized(v))
    assert float((keys - k).abs().max()) < float(k.abs().max()) / 127
    cache.length = 3
    cache.reserve(None, 2, 1)
    later, _ = cache.store(1, k[:, :1], v[:, :1], 2)
    assert torch.equal(later, torch.cat((keys[:, 2:], keys[:, :1]), 1))


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "kv_heads": 1}, {"sliding_window": 5}])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_an_int8_cache_answers_the_same_in_any_chunks_and_nearly_as_without(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], options: dict[str, Any], chunks: list[int]
) -> None:
    model, ids = build(shape(**options), 3), tokens(2, 18)
    whole = model(ids, cache=KVCache(model.config, 2, 18, torch.int8))
    torch.testing.assert_close(in_chunks(model, ids, chunks, dtype=torch.int8), whole, atol=2e-3, rtol=0)
    exact = model(ids)
    difference = (whole - exact).abs().max()
    assert 1e-4 < float(difference) < 0.02 * float(exact.std()) * 4


@torch.no_grad()
def test_rows_of_an_int8_cache_are_filled_and_kept_with_their_scales(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 3), tokens(1, 9)
    one, three = KVCache(model.config, 1, 8, torch.int8), KVCache(model.config, 3, 9, torch.int8)
    model(ids[:, :8], cache=one)
    three.fill(one)
    three.keep(torch.tensor([2, 0]))
    expected = model(ids[:, 8:], cache=cache_of(model, ids[:, :8]))
    torch.testing.assert_close(
        model(ids[:, 8:].expand(2, 1), cache=three), expected.expand(2, -1, -1), atol=1e-5, rtol=0
    )


def cache_of(model: Transformer, ids: Tensor) -> KVCache:
    cache = KVCache(model.config, 1, 9, torch.int8)
    model(ids, cache=cache)
    return cache


def test_an_int8_cache_takes_a_byte_a_number_and_two_a_head(shape: Callable[..., ModelConfig]) -> None:
    config = shape()
    heads = 2 * config.layers * 3 * 7 * config.kv_heads
    assert KVCache(config, 3, 7).num_bytes == heads * config.head_dim * 4
    assert KVCache(config, 3, 7, torch.int8).num_bytes == heads * (config.head_dim + 2)
