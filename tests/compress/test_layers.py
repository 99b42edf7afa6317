"""A block's scales go where they change nothing, and its matrices become what their integers stand for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slm.compress.config import Variant
from slm.compress.layers import INPUTS, MATRICES, compress_block
from slm.compress.statistics import InputStatistics
from slm.model.attention import plan
from slm.model.block import Block
from slm.model.config import ModelConfig
from slm.model.integers import Grid
from slm.model.rope import RotaryTables
from slm.model.transformer import build

CONFIG = ModelConfig(
    vocab_size=64, width=64, layers=1, heads=4, kv_heads=2, head_dim=16, ffn_width=128, max_seq_len=32, attention="sdpa"
)
GRIDS = dict.fromkeys(MATRICES, Grid(4, 32))


@pytest.fixture(params=[False, True], ids=["plain", "qk_norm"])
def block(request: pytest.FixtureRequest) -> Block:
    model = build(CONFIG.model_copy(update={"qk_norm": request.param}), seed=1).requires_grad_(requires_grad=False)
    return model.blocks[0]  # type: ignore[return-value]


@pytest.fixture(name="x_BTD")
def residual_stream() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 32, 64, generator=draw) * torch.exp(torch.randn(64, generator=draw))


@torch.inference_mode()
def through(block: Block, x_BTD: Tensor) -> Tensor:
    how = plan(CONFIG, x_BTD.shape[:2], x_BTD.dtype, x_BTD.device)
    out: Tensor = block(x_BTD, RotaryTables(CONFIG).span(0, 32, x_BTD.device, x_BTD.dtype), how)
    return out


def seen(block: Block, x_BTD: Tensor) -> dict[str, InputStatistics]:
    found = {first: InputStatistics(block.get_submodule(first).in_features) for first in INPUTS}  # type: ignore[arg-type]

    def adding(first: str) -> Callable[..., None]:
        return lambda _, inputs: found[first].add(inputs[0])

    handles = [block.get_submodule(first).register_forward_pre_hook(adding(first)) for first in INPUTS]
    through(block, x_BTD)
    for handle in handles:
        handle.remove()
    return found


def test_scales_alone_leave_what_a_block_computes_as_it_is(block: Block, x_BTD: Tensor) -> None:
    before, statistics = through(block, x_BTD), seen(block, x_BTD)
    weights = {name: parameter.clone() for name, parameter in block.named_parameters()}
    integers, gains = compress_block(block, statistics, Variant(name="a", method="scale", group_size=32), GRIDS)
    assert integers == {}
    changed = {name for name, parameter in block.named_parameters() if not torch.equal(parameter, weights[name])}
    assert {"attention_norm.weight", "ffn_norm.weight", "attention.v.weight", "ffn.up.weight"} <= changed
    assert all(gain.error < gain.plain_error for gain in gains.values())
    torch.testing.assert_close(through(block, x_BTD), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["rtn", "awq", "gptq"])
def test_a_block_becomes_what_its_integers_stand_for(block: Block, x_BTD: Tensor, method: str) -> None:
    statistics = seen(block, x_BTD) if method != "rtn" else {}
    integers, _ = compress_block(block, statistics, Variant(name="a", method=method, group_size=32), GRIDS)  # type: ignore[arg-type]
    assert set(integers) == set(MATRICES)
    for name, found in integers.items():
        assert torch.equal(block.get_submodule(name).weight, found.dequantize())


def test_awq_and_gptq_lose_less_of_a_blocks_output_than_rounding(block: Block, x_BTD: Tensor) -> None:
    before = through(block, x_BTD)

    def error(method: str, **changes: object) -> float:
        mine, settings = copy.deepcopy(block), {"name": "a", "method": method, "group_size": 32, **changes}
        compress_block(mine, seen(mine, x_BTD), Variant.model_validate(settings), GRIDS)
        return float((through(mine, x_BTD) - before).square().sum())

    plain, nearest = error("rtn"), error("awq", compensate=False)
    assert nearest < 0.8 * plain
    assert error("gptq") < 0.8 * plain
    assert error("awq") < 0.8 * nearest


def test_queries_and_keys_are_not_clipped(block: Block, x_BTD: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[tuple[int, ...]] = []

    def watched(weight_OI: Tensor, gram_II: Tensor, grid: Grid) -> Tensor:
        assert gram_II.shape == (weight_OI.shape[1],) * 2
        clipped.append(tuple(weight_OI.shape))
        return torch.ones(weight_OI.shape[0], grid.groups(weight_OI.shape[1]))

    monkeypatch.setattr("slm.compress.layers.search_clip", watched)
    compress_block(block, seen(block, x_BTD), Variant(name="a", group_size=32), GRIDS)
    assert len(clipped) == 5  # v, o, gate, up, down
