from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from slm.model.config import ModelConfig
from slm.model.hugging_face import hf_config
from slm.model.rope import RotaryTables, frequencies, rotate

CPU = torch.device("cpu")
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"kind": "linear", "factor": 4.0},
    {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 16},
    {"kind": "llama3", "factor": 2.5, "low_freq_factor": 2.0, "high_freq_factor": 9.0, "original_max_seq_len": 48},
]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_rotation_equals_that_of_transformers(
    shape: Callable[..., ModelConfig], scaling: dict[str, Any] | None, theta: float
) -> None:
    config = shape(rope_theta=theta, rope_scaling=scaling)
    positions_BT = torch.tensor([[0, 1, 2, 3, 0, 1], [5, 6, 7, 60, 61, 62]])
    q, k = torch.randn(2, 6, 4, 16), torch.randn(2, 6, 2, 16)
    reference = LlamaRotaryEmbedding(LlamaConfig(**hf_config(config)))
    cos, sin = reference(q, positions_BT)
    expected_q, expected_k = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
    rotation = RotaryTables(config).at(positions_BT, 64, torch.float32)
    torch.testing.assert_close(rotate(q, rotation), expected_q.transpose(1, 2), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(rotate(k, rotation), expected_k.transpose(1, 2), atol=1e-6, rtol=1e-6)


@given(first=st.integers(0, 40), second=st.integers(0, 40), shift=st.integers(0, 60))
def test_scores_depend_on_the_distance_of_positions_alone(first: int, second: int, shift: int) -> None:
    tables = RotaryTables(ModelConfig(head_dim=16))
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(first))

    def score(offset: int) -> torch.Tensor:
        at_q = tables.at(torch.tensor([[first + offset]]), 128, torch.float32)
        at_k = tables.at(torch.tensor([[second + offset]]), 128, torch.float32)
        return (rotate(q, at_q) * rotate(k, at_k)).sum()

    torch.testing.assert_close(score(0), score(shift), atol=2e-5, rtol=0)


def test_spans_are_the_rows_of_their_positions_and_tables_grow(shape: Callable[..., ModelConfig]) -> None:
    tables = RotaryTables(shape())
    short = tables.span(3, 9, CPU, torch.float32)
    long = tables.span(290, 310, CPU, torch.float32)  # longer than the first table
    for (cos, sin), positions in ((short, torch.arange(3, 9)), (long, torch.arange(290, 310))):
        gathered_cos, gathered_sin = tables.at(positions[None], 310, torch.float32)
        assert torch.equal(cos, gathered_cos[0])
        assert torch.equal(sin, gathered_sin[0])
    again = tables.span(3, 9, CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(short, again, strict=True))


def test_tables_made_in_inference_can_be_trained_with(shape: Callable[..., ModelConfig]) -> None:
    tables = RotaryTables(shape())
    with torch.inference_mode():
        tables.span(0, 4, CPU, torch.float32)
    x = torch.randn(1, 4, 2, 16, requires_grad=True)
    rotate(x, tables.span(0, 4, CPU, torch.float32)).sum().backward()
    assert x.grad is not None


def test_long_waves_are_stretched_and_short_ones_kept_by_llama3(shape: Callable[..., ModelConfig]) -> None:
    plain = frequencies(shape())
    scaled = frequencies(shape(rope_scaling={"kind": "llama3", "factor": 8.0, "original_max_seq_len": 32}))
    assert scaled[0] == plain[0]
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)
