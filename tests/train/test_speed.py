"""Figures that cannot lie: FLOPs against a counted forward and backward, padding left out, unknown said."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import slm.train
from slm.core.batch import IGNORED
from slm.model.config import ModelConfig
from slm.model.counting import flops_per_token
from slm.model.transformer import build
from slm.train import speed
from slm.train.memory import blank_batch
from slm.train.metrics import read_metrics
from slm.train.speed import Meter, flops_text, matmul_rate, model_flops, rates_text

CONFIG = ModelConfig(
    vocab_size=256, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_width=128, max_seq_len=64
)


def test_model_flops_are_those_of_a_counted_forward_and_backward():
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
