from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slm.model import block
from slm.model.cache import KVCache
from slm.model.config import MATRICES, LoraConfig, Matrix, ModelConfig
from slm.model.counting import (
    PARTS,
    flops_per_token,
    kv_cache_bytes_per_token,
    num_parameters,
    parameters_by_part,
    training_bytes,
    visible_tokens,
)
from slm.model.lora import attach_blank
from slm.model.transformer import Transformer, build

SHAPES = sorted((Path(__file__).parents[2] / "configs" / "model").glob("*.yaml"))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": False},
    {"qk_norm": True, "kv_heads": 1},
    {"sliding_window": 5, "layers": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_parameters_are_those_of_the_model(shape: Callable[..., ModelConfig], options: dict[str, Any]) -> None:
    config = shape(**options)
    state = build(config, 0).state_dict()
    assert num_parameters(config) == sum(tensor.numel() for tensor in state.values())
    parts = dict.fromkeys(PARTS, 0)
    for name, tensor in state.items():
        part = next((p for p in ("norm", "embedding", "head", "attention", "ffn") if p in name), "")
        parts["norms" if part == "norm" else part] += tensor.numel()
    assert parameters_by_part(config) == parts


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_operations_are_those_that_torch_counts(
    shape: Callable[..., ModelConfig],
    tokens: Callable[..., Tensor],
    options: dict[str, Any],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fused:
        monkeypatch.setattr(block, "reason_against", lambda *_: "counted by modules")
    config, seq_len = shape(**options), 40
    model = build(config, 0)
    # torch counts attention as if every query saw every key; only its plain backend does not recompute backward.
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens(2, seq_len)).sum().backward()
    counted = counter.get_total_flops() / (2 * seq_len)
    per_visible = 12 * config.layers * config.heads * config.head_dim
    everything_seen = flops_per_token(config, seq_len) + per_visible * (seq_len - visible_tokens(config, seq_len))
    scores_once_more = 2 * config.layers * config.heads * config.head_dim * seq_len if fused else 0
    assert counted == pytest.approx(everything_seen + scores_once_more, rel=1e-9)


@pytest.mark.parametrize("targets", [MATRICES, ("attention.q", "ffn.down")], ids=["all", "two"])
def test_operations_beside_adapters_are_those_that_torch_counts(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], targets: tuple[Matrix, ...]
) -> None:
    config, seq_len, lora = shape(), 40, LoraConfig(rank=3, targets=targets)
    model = build(config, 0)
    attach_blank(model, lora)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens(2, seq_len)).sum().backward()
    counted = counter.get_total_flops() / (2 * seq_len)
    seen = 12 * config.layers * config.heads * config.head_dim * (seq_len - visible_tokens(config, seq_len))
    expected = flops_per_token(config, seq_len, lora) + seen
    assert 0.9 * expected < counted < expected, "the first layer's input needs no gradient"
    assert expected < flops_per_token(config, seq_len) + seen


@pytest.mark.parametrize(("window", "seq_len"), [(0, 12), (5, 12), (12, 12), (30, 12), (1, 7)])
def test_visible_tokens_are_the_mean_of_the_mask(shape: Callable[..., ModelConfig], window: int, seq_len: int) -> None:
    seen = [min(place + 1, window or seq_len) for place in range(seq_len)]
    assert visible_tokens(shape(sliding_window=window), seq_len) == pytest.approx(sum(seen) / seq_len)


def test_bytes_are_those_of_the_tensors(shape: Callable[..., ModelConfig]) -> None:
    config = shape()
    model = build(config, 0)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    assert training_bytes(config) == {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "optimizer": sum(t.nbytes for t in moments),
    }
    cache = KVCache(config, 1, 10, torch.bfloat16)
    assert kv_cache_bytes_per_token(config) * 10 == cache.keys_LBSHD.nbytes + cache.values_LBSHD.nbytes


def test_there_are_shapes_to_choose_from() -> None:
    assert [file.stem for file in SHAPES] == ["135m", "15m", "1b", "300m"]


@pytest.mark.parametrize("file", SHAPES, ids=lambda file: file.stem)
def test_a_shape_states_its_exact_number_of_parameters_and_fits_k_quants(file: Path) -> None:
    text = file.read_text()
    config = ModelConfig(**yaml.safe_load(text))
    stated = re.match(r"# Parameters: ([\d,]+), of which .*?([\d,]{6,})", text)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == num_parameters(config)
    assert int(stated[2].replace(",", "")) == parameters_by_part(config)["embedding"]
    nominal = float(file.stem[:-1]) * {"m": 1e6, "b": 1e9}[file.stem[-1]]
    assert num_parameters(config) == pytest.approx(nominal, rel=0.03)
    for width in (config.width, config.ffn_width, config.heads * config.head_dim):
        assert width % 256 == 0
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(config).parameters()) == num_parameters(config)
