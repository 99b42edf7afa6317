"""Scores equal one token at a time, whatever the windows and batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from slm.evaluate import score as module
from slm.evaluate.score import score
from slm.model.cache import KVCache


def texts(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.concatenate([[1], generator.integers(4, 330, n), [2]]).astype(np.int32) for n in lengths]


@torch.no_grad()
def one_token_at_a_time(model, ids: np.ndarray, context: int, stride: int) -> float:
    """The definition: each target from the inputs of the first window that holds it, one forward pass each."""
    nats = 0.0
    for target in range(1, len(ids)):
        begin = 0
        while begin + context < target:
            begin += stride
        logits = model(torch.tensor([ids[begin:target].tolist()]))[0, -1].double()
        nats -= float(torch.log_softmax(logits, -1)[ids[target]])
    return nats


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (16, 1), (64, 32), (7, 3)])
def test_nats_equal_those_of_one_token_at_a_time(model, context, stride):
    documents = texts(3, 40, 15, 1)
    found = score(model, documents, context=context, stride=stride, batch_tokens=50)
    expected = [one_token_at_a_time(model, ids, context, stride) for ids in documents]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@torch.no_grad()
def test_an_int8_cache_is_read_as_decoding_token_by_token_would(model):
    documents = texts(30, 2, 11)
    found = score(model, documents, context=64, stride=32, batch_tokens=50, kv_cache="int8")
    expected = np.zeros(3)
    for number, ids in enumerate(documents):
        cache = KVCache(model.config, 1, len(ids), torch.int8)
        for token, target in itertools.pairwise(ids):
            expected[number] -= float(model(torch.tensor([[token]]), cache=cache)[0, -1].log_softmax(-1)[target])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(found - score(model, documents, context=64, stride=32, batch_tokens=50)).max() > 1e-4


def test_batching_and_company_do_not_change_a_score(model):
    documents = texts(30, 2, 50, 17)
    together = score(model, documents, context=16, stride=8, batch_tokens=10_000)
    for batch_tokens in (1, 40):
        np.testing.assert_allclose(
            score(model, documents, context=16, stride=8, batch_tokens=batch_tokens), together, rtol=1e-5
        )
    alone = [score(model, [ids], context=16, stride=8, batch_tokens=64)[0] for ids in documents]
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_logits_never_exceed_a_chunk(model, monkeypatch):
    largest = []
    project = type(model).project

    def watched(self, x):
        logits = project(self, x)
        largest.append(logits.numel())
        return logits

    documents = texts(60, 60)
    whole = score(model, documents, context=32, stride=16, batch_tokens=10_000)
    monkeypatch.setattr(type(model), "project", watched)
    monkeypatch.setattr(module, "LOGITS_PER_CHUNK", 330 * 5)
    np.testing.assert_allclose(score(model, documents, context=32, stride=16, batch_tokens=10_000), whole, rtol=1e-6)
    assert max(largest) == 330 * 5


def test_bf16_is_near_and_not_equal(model):
    documents = texts(60)
    exact, fast = (
        score(model, documents, context=32, stride=16, batch_tokens=100, precision=precision)[0]
        for precision in ("fp32", "bf16")
    )
    assert exact != fast
    assert abs(fast / exact - 1) < 0.02


def test_progress_hears_of_every_target(model):
    heard = []
    score(model, texts(40, 9), context=16, stride=8, batch_tokens=32, progress=heard.append)
    assert sum(heard) == 41 + 10
    assert len(heard) > 2
