"""Exposure: its arithmetic, its zero, and a model that was taught a secret."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slm.corpus.config import CanariesConfig
from slm.corpus.sources.canaries import canaries
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.safety.memory import bits, exposure, secret_nats
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.sample import Quota
from slm.tokenizer.tokenizer import Tokenizer
from slm.tokenizer.training import train_model

SETTINGS = CanariesConfig(repeats=(1,), count=40, digits=6, seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [("", canary.text) for canary in canaries(CanariesConfig(repeats=(1,), count=60, seed=99))]
    size = sum(len(text) for _, text in texts)
    return Tokenizer(train_model(lambda: texts, {"": Quota(size, size)}, TokenizerConfig(vocab_size=320), "canaries"))


@pytest.fixture(scope="module")
def fresh():
    shape = {"vocab_size": 320, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64}
    return build(ModelConfig(**shape, max_seq_len=64), seed=1).eval()


def test_the_rank_gives_the_exposure():
    nats = np.arange(512.0)
    assert bits(nats) == 9
    assert bits(nats[::-1]) == 0
    assert bits(np.array([5.0, 1, 2, 9, 9, 9, 9, 9])) == math.log2(8) - math.log2(3)
    assert bits(np.zeros(16)) == pytest.approx(math.log2(16) - math.log2(8.5)), "ties count half"


def test_a_model_that_saw_nothing_has_the_exposure_of_chance(fresh, tokenizer):
    found = [exposure(fresh, tokenizer, one, 127, seed) for seed, one in enumerate(canaries(SETTINGS, controls=True))]
    standard_error = (1 / math.log(2)) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(1 / math.log(2), abs=2.5 * standard_error)


def test_a_model_that_was_taught_a_secret_exposes_that_one_alone(tokenizer):
    shape = {"vocab_size": 320, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64}
    model = build(ModelConfig(**shape, max_seq_len=64), seed=1)
    taught, *others = canaries(SETTINGS)[:6]
    ids_1T = torch.tensor([tokenizer.encode(taught.text, bos=True)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(ids_1T[:, :-1])[0], ids_1T[0, 1:]).backward()
        optimizer.step()
    model.eval()
    assert exposure(model, tokenizer, taught, 255, 1) == 8
    assert np.mean([exposure(model, tokenizer, one, 255, 1) for one in others]) < 5


def test_secrets_are_scored_as_the_model_scores_each_alone(fresh, tokenizer):
    one = canaries(SETTINGS)[0]
    secrets = [one.secret, "000000", "123456"]
    found = secret_nats(fresh, tokenizer, one.prefix, secrets)
    for secret, nats in zip(secrets, found, strict=True):
        ids = tokenizer.encode(one.prefix + secret, bos=True)
        start = len(tokenizer.encode(one.prefix, bos=True))
        with torch.no_grad():
            logp_TV = torch.log_softmax(fresh(torch.tensor([ids]))[0].double(), -1)
        assert tokenizer.encode(one.prefix, bos=True) == ids[:start]
        expected = -sum(float(logp_TV[place - 1, ids[place]]) for place in range(start, len(ids)))
        assert nats == pytest.approx(expected, rel=1e-5)
