"""Figures that cannot lie: FLOPs against a counted forward and backward, padding left out, unknown said."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import slm.train
from slm.core.batch import IGNORED
from slm.model import block
from slm.model.backends import Choice
from slm.model.config import ModelConfig
from slm.model.counting import flops_per_token
from slm.model.transformer import build
from slm.shards.loader import collate
from slm.train import speed
from slm.train.memory import blank_batch
from slm.train.metrics import read_metrics
from slm.train.speed import Meter, flops_text, matmul_rate, model_flops, rates_text

CONFIG = ModelConfig(
    vocab_size=256, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_width=128, max_seq_len=64
)


def test_model_flops_are_those_of_a_counted_forward_and_backward(monkeypatch):
    monkeypatch.setattr(block, "reason_against", lambda *_: "counted by modules")
    batch = blank_batch(2, 64)
    model = build(CONFIG, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # products, which the counter knows
        hidden = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        model.project(hidden).sum().backward()
    upper_triangle = 12 * CONFIG.layers * CONFIG.heads * CONFIG.head_dim * 2 * (64 * 64 - 64 * 65 // 2)
    assert model_flops([batch], CONFIG) == counter.get_total_flops() - upper_triangle


def test_rows_of_one_document_cost_what_the_formula_says():
    assert model_flops([blank_batch(3, 64)], CONFIG) == pytest.approx(flops_per_token(CONFIG, 64) * 3 * 64)
    windowed = CONFIG.model_copy(update={"sliding_window": 16})
    assert model_flops([blank_batch(3, 64)], windowed) == pytest.approx(flops_per_token(windowed, 64) * 3 * 64)


def test_short_documents_and_padding_cost_less():
    whole, packed = blank_batch(1, 64), blank_batch(1, 64)
    packed.documents_BT[:, 32:48], packed.documents_BT[:, 48:] = 1, -1
    packed.positions_BT[:, 32:48], packed.positions_BT[:, 48:] = torch.arange(16), 0
    pairs = 32 * 33 // 2 + 16 * 17 // 2
    matrices = flops_per_token(CONFIG, 1) - 12 * CONFIG.layers * CONFIG.heads * CONFIG.head_dim
    expected = 48 * matrices + 12 * CONFIG.layers * CONFIG.heads * CONFIG.head_dim * pairs
    assert model_flops([packed], CONFIG) == pytest.approx(expected)
    assert model_flops([packed], CONFIG) < model_flops([whole], CONFIG)


def test_rates_count_targets_and_start_anew_after_each_lap(monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e9)
    batch = blank_batch(1, 64)
    batch.targets_BT[:, -10:] = IGNORED
    batch = dataclasses.replace(batch, num_targets=54)
    meter = Meter(CONFIG, "cpu", "fp32")
    meter.add([batch, batch])
    rates = meter.lap(2.0)
    assert rates["tokens_per_second"] == 54
    assert rates["model_flops_per_second"] == model_flops([batch], CONFIG)
    assert rates["matmul_share"] == model_flops([batch], CONFIG) / 1e9
    assert rates["mfu"] == "unknown"
    meter.add([batch])
    assert meter.lap(3.0)["tokens_per_second"] == 54
    assert rates_text(rates, "fp32").startswith("54 tokens/s, 0 GFLOP/s, ")


SHAPES = {
    "grouped keys": {},
    "one key head": {"kv_heads": 1},
    "a head of its own": {"tie_embeddings": False},
    "norms of queries and keys": {"qk_norm": True, "kv_heads": 4},
    "a sliding window": {"sliding_window": 16},
    "heads wider than the model": {"head_dim": 32},
    "deep, all of it": {"layers": 3, "qk_norm": True, "tie_embeddings": False, "sliding_window": 24},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_of_every_kind_of_shape_are_those_of_a_counted_forward_and_backward(monkeypatch, shape):
    monkeypatch.setattr(block, "reason_against", lambda *_: "counted by modules", raising=False)
    config, batch = CONFIG.model_copy(update=SHAPES[shape]), blank_batch(2, 64)
    model = build(config, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # products, which the counter knows
        hidden = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        model.project(hidden).sum().backward()
    window = config.sliding_window or 64
    seen = sum(min(position + 1, window) for position in range(64))
    hidden_pairs = 12 * config.layers * config.heads * config.head_dim * 2 * (64 * 64 - seen)
    assert model_flops([batch], config) == counter.get_total_flops() - hidden_pairs
    assert flops_per_token(config, 64) * 2 * 64 == pytest.approx(model_flops([batch], config))


def test_padded_rows_count_as_the_tokens_that_they_teach(monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e9)
    lengths = [
        torch.tensor([40, 24]),
        torch.tensor([10]),
        torch.tensor([1, 8]),
    ]  # full, and two that are mostly padding
    batch = collate(np.ones((3, 64), dtype=np.int64), lengths, 0)
    meter = Meter(CONFIG, "cpu", "fp32")
    meter.add([batch])
    assert meter.lap(1.0)["tokens_per_second"] == (40 - 1) + (24 - 1) + (10 - 1) + (1 - 1) + (8 - 1)
    pairs = sum(length * (length + 1) // 2 for length in (40, 24, 10, 1, 8))
    attention = 12 * CONFIG.layers * CONFIG.heads * CONFIG.head_dim
    assert model_flops([batch], CONFIG) == (flops_per_token(CONFIG, 1) - attention) * 83 + attention * pairs


def test_mfu_is_the_share_of_the_data_sheet_where_the_device_is_known(monkeypatch):
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(speed, "device_name", lambda _: "NVIDIA H200")
    meter = Meter(CONFIG, "cpu", "bf16")
    meter.add([blank_batch(1, 64)])
    rates = meter.lap(1e-6)
    assert rates["mfu"] == pytest.approx(rates["model_flops_per_second"] / 989e12)
    assert "data sheet 989 TFLOP/s" in meter.yardstick()


def test_the_matmul_rate_is_plausible_and_draws_no_random_number_of_the_run():
    before = torch.get_rng_state()
    assert 1e8 < matmul_rate("cpu", "fp32") < 1e14
    assert torch.equal(before, torch.get_rng_state())


def test_every_logged_step_has_its_rates(make_recipe, capsys):
    recipe = make_recipe("rates", tokens=3 * 256)
    slm.train.run(recipe)
    rows = [row for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == "train"]
    assert all(0 < row["matmul_share"] < 1 and row["mfu"] == "unknown" for row in rows)
    assert "of this machine's measured fp32 matmul rate" in capsys.readouterr().out


def test_rates_in_words():
    assert flops_text(332.4e9) == "332 GFLOP/s"
    assert flops_text(1.339e12) == "1.34 TFLOP/s"


def by_documents(q, k, v, cu_q, *_, **__):
    """What a kernel that is told where documents begin computes: each document by itself, by plain products."""
    pieces = []
    for start, stop in pairwise(cu_q.tolist()):
        part = (x[start:stop].transpose(0, 1)[None] for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)
        pieces.append(out[0].transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False, "kv_heads": 4}, {"qk_norm": True, "kv_heads": 1}, {"sliding_window": 8}]
)
def test_model_flops_of_packed_rows_are_counted_ones_less_masked_pairs_and_padding(monkeypatch, backend, changes):
    config = CONFIG.model_copy(update=changes)
    lengths = (20, 30, 14)  # the last is padding
    batch = blank_batch(2, 64)
    batch.documents_BT[:] = torch.tensor([0] * 20 + [1] * 30 + [-1] * 14)
    batch.positions_BT[:] = torch.cat([torch.arange(length) for length in lengths])
    monkeypatch.setattr(block, "reason_against", lambda *_: "counted by modules")
    monkeypatch.setattr("slm.model.attention.choose", lambda *_, **__: Choice(backend, "made to"))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_documents)
    model = build(config, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        hidden = model.hidden(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
        model.project(hidden).sum().backward()
    window = config.sliding_window or 64
    pairs = sum(min(place + 1, window) for length in lengths[:2] for place in range(length))
    multiplied = 64 * 64 if backend == "sdpa" else sum(length * length for length in lengths)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if model.head is not None:
        matrices -= model.embedding.weight.numel()  # looked up, not multiplied
    padding = 6 * matrices * 2 * lengths[2]
    masked = 12 * config.layers * config.heads * config.head_dim * 2 * (multiplied - pairs)
    assert model_flops([batch], config) == counter.get_total_flops() - padding - masked
