from __future__ import annotations

from collections.abc import Callable

import torch

from slm.model.attention import Plan
from slm.model.block import Block
from slm.model.config import ModelConfig
from slm.model.rope import RotaryTables
from slm.model.transformer import build


def test_a_block_adds_to_the_stream_and_keeps_its_type(shape: Callable[..., ModelConfig]) -> None:
    config = shape()
    block = build(config, 0).blocks[0]
    assert isinstance(block, Block)
    x = torch.randn(2, 5, config.width)
    rotation = RotaryTables(config).span(0, 5, x.device, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x, rotation, Plan()).dtype == torch.float32
    with torch.no_grad():
        block.attention.o.weight.zero_()
        block.ffn.down.weight.zero_()
    assert torch.equal(block(x, RotaryTables(config).span(0, 5, x.device, torch.float32), Plan()), x)
