"""Likelihoods over trees equal a forward over each request alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm.evaluate.likelihood import ancestors, likelihoods
from slm.evaluate.tree import Request, plan_families
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer, build


def requests(few_shot: int) -> list[Request]:
    """Items of four choices, some of them behind the same examples."""
    generator = np.random.default_rng(3)
    shared = generator.integers(4, 90, size=few_shot).tolist()
    made = []
    for item in range(30):
        context = [1, *(shared if item < 20 else []), *generator.integers(4, 90, size=generator.integers(0, 30))]
        for _ in range(4):
            choice = generator.integers(4, 90, size=generator.integers(1, 9))
            made.append(Request(np.array([*context, *choice], dtype=np.int32), len(context)))
    return [*made, made[0], Request(np.array([1, *shared, 7], dtype=np.int32), 1)]


@torch.no_grad()
def alone(model: Transformer, one: Request) -> tuple[float, bool]:
    ids = torch.tensor(one.ids.astype(np.int64))
    logprobs = model(ids[None, :-1])[0, one.first - 1 :].log_softmax(-1)
    targets = ids[one.first :]
    return float(logprobs.double().gather(1, targets[:, None]).sum()), bool((logprobs.argmax(-1) == targets).all())


@pytest.mark.parametrize("few_shot", [0, 60])
@pytest.mark.parametrize("window", [0, 6])
def test_each_request_scores_as_if_it_were_alone(few_shot, window):
    config = ModelConfig(
        vocab_size=90, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=48, max_seq_len=128,
        sliding_window=window,
    )  # fmt: skip
    model, asked = build(config, 1).eval(), requests(few_shot)
    found = {number: one for batch in likelihoods(model, asked, batch_tokens=512) for number, one in batch}
    assert sorted(found) == list(range(len(asked)))
    for number, one in enumerate(asked):
        expected = alone(model, one)
        assert found[number].logprob == pytest.approx(expected[0], abs=1e-4)
        assert found[number].greedy == expected[1]


def test_projection_in_chunks_changes_nothing(model, monkeypatch):
    asked = requests(10)
    whole = dict(pair for batch in likelihoods(model, asked, batch_tokens=512) for pair in batch)
    monkeypatch.setattr("slm.evaluate.likelihood.LOGITS_PER_CHUNK", 7 * 330)
    chunked = dict(pair for batch in likelihoods(model, asked, batch_tokens=512) for pair in batch)
    for number in whole:
        assert chunked[number].logprob == pytest.approx(whole[number].logprob, abs=1e-5)
        assert chunked[number].greedy == whole[number].greedy


def test_half_precision_stays_near(model):
    asked = requests(25)
    exact = dict(pair for batch in likelihoods(model, asked, batch_tokens=512) for pair in batch)
    rough = dict(pair for batch in likelihoods(model, asked, batch_tokens=512, precision="bf16") for pair in batch)
    differences = [abs(rough[number].logprob - exact[number].logprob) for number in exact]
    assert 0 < max(differences) < 0.5


@torch.no_grad()
@pytest.mark.parametrize("few_shot", [0, 20])
def test_an_int8_cache_is_used_with_a_prefix_and_without(model, few_shot):
    asked = requests(few_shot)
    found = dict(pair for batch in likelihoods(model, asked, batch_tokens=512, kv_cache="int8") for pair in batch)
    moved = 0.0
    for number, one in enumerate(asked):
        ids = torch.tensor(one.ids.astype(np.int64))
        logprobs = model(ids[None, :-1], cache=KVCache(model.config, 1, len(ids), torch.int8))[0].log_softmax(-1)
        expected = float(logprobs[one.first - 1 :].gather(1, ids[one.first :, None]).sum())
        assert found[number].logprob == pytest.approx(expected, abs=3e-3)
        moved = max(moved, abs(found[number].logprob - alone(model, one)[0]))
    assert moved > 3e-3


def test_a_place_sees_the_prefix_its_ancestors_and_itself():
    positions, ends = torch.tensor([[2, 3, 3, 2]]), torch.tensor([[3, 2, 3, 4]])
    asking = torch.tensor([[0, 1, 2, 3, 3]])  # the last stands twice: this row is shorter than another
    assert ancestors(asking, positions, ends, 2, 0).int().tolist() == [
        [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1]]
    ]
    assert ancestors(asking[:, :2], positions, ends, 2, 2).int().tolist() == [[[0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]]


def test_no_place_of_a_matrix_product_is_padding_and_the_last_block_computes_scored_places_alone(model):
    asked, seen = requests(0), []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    list(likelihoods(model, asked, batch_tokens=10**6))
    rows = [row for family in plan_families(asked, 256) for row in family.rows]
    assert seen == [sum(len(row.tokens_N) for row in rows), sum(len(row.wanted) for row in rows)]
    assert seen[1] < 0.7 * seen[0]


def test_a_request_beyond_the_context_is_the_callers_mistake(model):
    with pytest.raises(AssertionError, match="exceeds the context"):
        list(likelihoods(model, [Request(np.zeros(66, dtype=np.int32), 1)], batch_tokens=64))
