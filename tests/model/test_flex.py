"""FlexAttention's mask by blocks and its forward, against the definition and against SDPA. Shapes as in attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from slm.model.attention import visible
from slm.model.flex import attend_flex, block_mask

CPU = torch.device("cpu")
DOCUMENTS_BT = torch.tensor([[0] * 100 + [1] * 150 + [-1] * 50, [0] * 300])


@pytest.mark.parametrize("window", [0, 1, 90])
def test_the_blocks_say_what_the_mask_of_sdpa_says(window: int) -> None:
    blocks = block_mask(DOCUMENTS_BT, 2, 300, window, CPU)
    places = torch.arange(300)
    found = torch.stack(
        [blocks.mask_mod(torch.tensor(row), torch.tensor(0), places[:, None], places[None]) for row in range(2)]
    )
    assert torch.equal(found, visible(DOCUMENTS_BT, 300, 300, window, CPU))


def test_blocks_that_nobody_sees_are_left_out() -> None:
    apart = torch.arange(512)[None] // 128
    assert block_mask(apart, 1, 512, 0, CPU).sparsity() == 75.0
    assert block_mask(None, 1, 512, 0, CPU).sparsity() == pytest.approx(37.5)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("window", [0, 90])
def test_forward_computes_what_sdpa_computes(window: int, kv_heads: int) -> None:
    q, k, v = (torch.randn(2, 300, heads, 16) for heads in (4, kv_heads, kv_heads))
    found = attend_flex(q, k, v, block_mask(DOCUMENTS_BT, 2, 300, window, CPU))
    mask = visible(DOCUMENTS_BT, 300, 300, window, CPU)[:, None]
    parts = (x.transpose(1, 2) for x in (q, k, v))
    expected = functional.scaled_dot_product_attention(*parts, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
