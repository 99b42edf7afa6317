from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slm.model.config import ModelConfig
from slm.model.transformer import build

OPTIONS: list[dict[str, Any]] = [
    {},
    {"qk_norm": True, "tie_embeddings": False},
    {"sliding_window": 4},
    {"rope_scaling": {"kind": "llama3", "factor": 4.0, "original_max_seq_len": 16}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_packed_document_gets_the_logits_it_gets_alone(
    shape: Callable[..., ModelConfig], packed: Any, options: dict[str, Any]
) -> None:
    model = build(shape(**options), 0)
    logits = model(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
    for row, start, stop in packed.spans:
        alone = model(packed.tokens_BT[row : row + 1, start:stop])
        torch.testing.assert_close(logits[row : row + 1, start:stop], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bf16", [False, True])
def test_no_gradient_crosses_a_document_border(shape: Callable[..., ModelConfig], packed: Any, bf16: bool) -> None:
    model = build(shape(), 0)
    stream: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        stream.append(output)

    model.embedding.register_forward_hook(keep)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
    logits[0, 7:19].square().sum().backward()
    assert stream[0].grad is not None
    touched = stream[0].grad.abs().sum(-1)
    assert (touched[0, 7:19] > 0).all()
    touched[0, 7:19] = 0
    assert not touched.any()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("window", [0, 3])
def test_padding_gives_no_nan_forward_or_backward(
    shape: Callable[..., ModelConfig], packed: Any, window: int, bf16: bool
) -> None:
    model = build(shape(sliding_window=window, qk_norm=bf16), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model(packed.tokens_BT, positions_BT=packed.positions_BT, documents_BT=packed.documents_BT)
    assert logits.isfinite().all()
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_logits_are_float32_also_under_autocast(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 0), tokens(2, 9)
    exact = model(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, logits = model.hidden(ids), model(ids)
    assert hidden.dtype == torch.bfloat16
    assert exact.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_hidden_states_times_the_head(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], tied: bool
) -> None:
    model, ids = build(shape(tie_embeddings=tied), 0), tokens(2, 9)
    assert torch.equal(model(ids), functional.linear(model.hidden(ids), model.head_weight))
    assert (model.head_weight is model.embedding.weight) == tied
    assert ("head.weight" in model.state_dict()) == (not tied)


def test_state_dict_has_the_names_that_others_rely_on(shape: Callable[..., ModelConfig]) -> None:
    model = build(shape(layers=1, qk_norm=True, tie_embeddings=False), 0)
    block = [
        "attention_norm.weight",
        *(f"attention.{name}.weight" for name in ("q", "k", "v", "o", "q_norm", "k_norm")),
        "ffn_norm.weight",
        *(f"ffn.{name}.weight" for name in ("gate", "up", "down")),
    ]
    expected = ["embedding.weight", *(f"blocks.0.{name}" for name in block), "norm.weight", "head.weight"]
    assert list(model.state_dict()) == expected
    assert model.blocks[0].attention.q_norm.weight.shape == (16,)


def test_equal_seeds_build_equal_models_whatever_torchs_own_generator_says(shape: Callable[..., ModelConfig]) -> None:
    first = build(shape(), 7).state_dict()
    before = torch.random.get_rng_state()
    torch.manual_seed(123)
    second, other = build(shape(), 7).state_dict(), build(shape(), 8).state_dict()
    torch.random.set_rng_state(before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first if "norm" not in name)
    build(shape(), 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fresh_weights_have_the_spread_that_the_docstring_states(shape: Callable[..., ModelConfig]) -> None:
    config = shape(width=256, layers=8, heads=4, head_dim=64, ffn_width=512, vocab_size=2000)
    for name, tensor in build(config, 0).state_dict().items():
        if "norm" in name:
            assert torch.equal(tensor, torch.ones_like(tensor))
            continue
        expected = tensor.shape[1] ** -0.5 / (4 if name.endswith(("attention.o.weight", "ffn.down.weight")) else 1)
        assert tensor.std().item() == pytest.approx(expected, rel=0.02), name


def test_blocks_that_start_at_zero_leave_the_stream_as_it_is_and_still_learn(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(residual_init="zero"), 0), tokens(2, 9)
    assert torch.equal(model.hidden(ids), model.norm(model.embedding(ids)))
    assert torch.equal(model.blocks[0].ffn.up.weight, build(shape(), 0).blocks[0].ffn.up.weight)
    model(ids).square().mean().backward()
    assert all(block.attention.o.weight.grad.any() and block.ffn.down.weight.grad.any() for block in model.blocks)


def test_an_untrained_model_is_near_uniform_and_its_stream_does_not_grow_with_depth(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    config = shape(width=128, layers=12, heads=4, head_dim=32, ffn_width=256)
    model, ids = build(config, 0), tokens(4, 32)
    stream: list[float] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, out: stream.append(out.std().item()))
    loss = functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(97) + 0.5, abs=0.3)  # logits have variance 1
    assert stream[-1] < 2 * model.embedding.weight.std().item() + 1


def test_positions_beyond_the_row_length_are_served_up_to_max_seq_len(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(max_seq_len=512), 0), tokens(1, 6)
    shifted = model(ids, positions_BT=torch.arange(506, 512)[None])
    torch.testing.assert_close(shifted, model(ids), atol=1e-4, rtol=0)  # only distances count
