"""Attention by products against torch's own, forward and backward, over every way of cutting it up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slm.model import causal_products
from slm.model.attention import visible
from slm.model.causal_products import attend_causal, attend_causal_backward, first_keys


def drawn(tokens: int = 50, rows: int = 3, heads: int = 4, groups: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, slope = (
        torch.randn(rows, tokens, count, 16, generator=generator).transpose(1, 2)
        for count in (heads, groups, groups, heads)
    )
    return q, k, v, slope


def documents(tokens: int, rows: int) -> Tensor:
    return torch.randint(0, 4, (rows, tokens), generator=torch.Generator().manual_seed(1)).sort(1).values


def expected(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, sees: Tensor | None) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    mask = None if sees is None else sees.unsqueeze(1)
    out = functional.scaled_dot_product_attention(*leaves, attn_mask=mask, is_causal=sees is None, enable_gqa=True)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


def masked(sees: Tensor) -> tuple[Tensor, list[list[int]]]:
    mask = torch.zeros(sees.shape).masked_fill(~sees, float("-inf")).unsqueeze(1)
    return mask, first_keys(mask)


@pytest.mark.parametrize("kind", ["causal", "documents", "window"])
@pytest.mark.parametrize(("block", "score_bytes"), [(128, 4 << 20), (16, 4 << 20), (16, 1), (16, 20_000), (7, 8_000)])
def test_products_over_any_blocks_and_slices_equal_sdpa(
    kind: str, block: int, score_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_products, "BLOCK", block)
    monkeypatch.setattr(causal_products, "SCORE_BYTES", score_bytes)
    monkeypatch.setattr(causal_products, "KEY_STEP", 2)
    q, k, v, slope = drawn()
    sees = mask = None
    if kind != "causal":
        rows_BT, window = (documents(50, 3), 0) if kind == "documents" else (None, 5)
        sees = visible(rows_BT, 50, 50, window, torch.device("cpu"))
        mask = masked(sees)
    found = [attend_causal(q, k, v, mask).transpose(1, 2), *attend_causal_backward(slope, q, k, v, mask)]
    for ours, theirs in zip(found, expected(q, k, v, slope, sees), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_in_bfloat16_products_are_as_near_the_truth_as_one_percent() -> None:
    exact = drawn(tokens=200)
    rounded = [tensor.bfloat16() for tensor in exact]
    q, k, v, slope = rounded
    found = [attend_causal(q, k, v, None).transpose(1, 2), *attend_causal_backward(slope, q, k, v, None)]
    for ours, truth in zip(found, expected(*(tensor.float() for tensor in rounded), None), strict=True):
        assert float((ours.float() - truth).norm() / truth.norm()) < 0.01


def test_scores_that_are_held_at_a_time_stay_within_the_bound() -> None:
    q = torch.empty(8, 6, 512, 64, dtype=torch.bfloat16)
    covered = torch.zeros(8, 6)
    for rows, heads in causal_products._slices(q):
        covered[rows, heads] += 1
        count = (rows.stop - rows.start) * (heads.stop - heads.start)
        assert count * 512 * causal_products.BLOCK * 2 <= causal_products.SCORE_BYTES
    assert bool((covered == 1).all())


def test_keys_before_the_first_document_of_a_block_are_skipped_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_products, "BLOCK", 16)
    monkeypatch.setattr(causal_products, "KEY_STEP", 4)
    rows_BT = torch.tensor([[0] * 30 + [1] * 15 + [2] * 5, [0] * 50])
    _, first = masked(visible(rows_BT, 50, 50, 0, torch.device("cpu")))
    assert first == [[0, 0, 28, 44], [0, 0, 0, 0]]
    _, first = masked(visible(None, 50, 50, 5, torch.device("cpu")))
    assert first == [[0, 12, 28, 44]]
