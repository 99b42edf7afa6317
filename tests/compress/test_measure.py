"""Costs against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slm.compress.measure import Answers, HeldOut, answers, compare
from slm.model.config import ModelConfig
from slm.model.transformer import build

CONFIGURATION = ModelConfig(
    vocab_size=32, width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_width=64, max_seq_len=64
)


@pytest.fixture
def text() -> HeldOut:
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 32, size=length).astype(np.int32) for length in (9, 40, 2, 17)]
    return HeldOut(ids, np.array([len(part) * 3.0 for part in ids]), context=16)


def test_the_cost_of_nothing_is_nothing(text: HeldOut) -> None:
    found = answers(build(CONFIGURATION, 0).eval(), text, 20)
    cost = compare(found, found, text, seed=1)
    assert (cost.increase, cost.mean_kl, cost.top1_agreement, cost.positions) == (0, 0, 1, 20)
    assert cost.bits_per_byte == pytest.approx(found.nats_D.sum() / math.log(2) / text.bytes_D.sum())
    assert cost.perplexity == pytest.approx(math.exp(found.nats_D.sum() / text.targets))


def test_kl_and_agreement_are_those_of_the_distributions(text: HeldOut) -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    q = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.6, 0.2]])
    nats_D = np.array([1.0, 2.0, 3.0, 4.0])
    cost = compare(Answers(nats_D, p.log()), Answers(nats_D + np.log(2) * text.bytes_D, q.log()), text, seed=1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert cost.mean_kl == pytest.approx(float(expected))
    assert cost.top1_agreement == 0.5
    assert cost.increase == pytest.approx(1.0)
    assert cost.interval_95 == pytest.approx((1.0, 1.0))  # every document costs one bit a byte more
    tokens = text.targets
    before, after = (math.exp(nats / tokens) for nats in (10, 10 + math.log(2) * text.bytes_D.sum()))
    assert cost.perplexity_increase == pytest.approx(after - before)
    low, high = cost.perplexity_interval_95
    assert low < after - before < high  # bytes of a token differ by document


def test_positions_are_spread_over_all_documents_and_windows(text: HeldOut) -> None:
    model = build(CONFIGURATION, 0).eval()
    found = answers(model, text, 10**6).logp_PV
    assert len(found) == text.targets
    with torch.inference_mode():
        alone = torch.log_softmax(model(torch.from_numpy(text.ids[0].astype(np.int64))[None])[0, :-1], -1)
    torch.testing.assert_close(found[:8], alone, rtol=1e-4, atol=1e-5)
    assert len(answers(model, text, 7).logp_PV) == 7
