"""Small models whose every option can be switched, and packed rows to feed them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from slm.model.config import ModelConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "width": 48,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "ffn_width": 80,
    "max_seq_len": 64,
}


@dataclass(frozen=True)
class Packed:
    """Rows of several documents and padding; `spans` are (row, first, past last) of each document."""

    tokens_BT: Tensor
    documents_BT: Tensor
    positions_BT: Tensor
    spans: list[tuple[int, int, int]]


@pytest.fixture
def shape() -> Callable[..., ModelConfig]:
    """A small configuration with the given fields changed."""
    return lambda **changes: ModelConfig(**(SMALL | changes))


@pytest.fixture
def tokens() -> Callable[..., Tensor]:
    """Random ids [B, T]."""

    def make(batch: int, num_tokens: int, seed: int = 0) -> Tensor:
        return torch.randint(0, SMALL["vocab_size"], (batch, num_tokens), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def packed(tokens: Callable[..., Tensor]) -> Packed:
    """Three rows of 24: documents of 7, 12 and 1 tokens with padding; one document; nothing but padding."""
    lengths = [[7, 12, 1], [24], []]
    documents = torch.full((3, 24), -1, dtype=torch.int32)
    positions = torch.zeros((3, 24), dtype=torch.int64)
    spans = []
    for row, in_row in enumerate(lengths):
        start = 0
        for number, length in enumerate(in_row):
            documents[row, start : start + length] = number
            positions[row, start : start + length] = torch.arange(length)
            spans.append((row, start, start + length))
            start += length
    return Packed(tokens(3, 24), documents, positions, spans)
