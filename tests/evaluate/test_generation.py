"""A batch of answers equals each prompt on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm.core.errors import DamagedError
from slm.evaluate.generation import Prompt, generate, reachable, shared_prefix
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.transformer import build


@pytest.fixture(scope="module", params=[0, 9], ids=["all", "window"])
def windowed(request):
    config = ModelConfig(
        vocab_size=330, width=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn_width=48, max_seq_len=128,
        sliding_window=request.param,
    )  # fmt: skip
    return build(config, 5).eval()


def answers(model, tokenizer, prompts, **more):
    settings = {"ends": frozenset({2}), "batch_tokens": 4096, **more}
    found = {one.number: one.text for batch in generate(model, tokenizer, prompts, **settings) for one in batch}
    return [found[number] for number in range(len(prompts))]


def prompts(shared: int, **more) -> list[Prompt]:
    generator = np.random.default_rng(2)
    head = generator.integers(270, 330, size=shared)
    return [
        Prompt(np.array([1, *head, *generator.integers(270, 330, size=n)], dtype=np.int32), 3 + n % 9, seed=n, **more)
        for n in range(1, 20)
    ]


@pytest.mark.parametrize("shared", [0, 50])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_answers_as_each_prompt_alone(windowed, tokenizer, shared, temperature):
    asked = prompts(shared, temperature=temperature)
    together = answers(windowed, tokenizer, asked)
    assert together == [answers(windowed, tokenizer, [one])[0] for one in asked]
    assert len(set(together)) > 10


@torch.no_grad()
def test_tokens_are_those_of_whole_forwards(windowed, tokenizer):
    (one,) = prompts(20)[6:7]
    ids = one.ids.tolist()
    for _ in range(one.max_tokens):
        ids.append(int(windowed(torch.tensor([ids]))[0, -1].argmax()))
    assert answers(windowed, tokenizer, [one]) == [tokenizer.decode(ids[len(one.ids) :])]


@torch.no_grad()
def test_an_int8_cache_answers_as_whole_forwards_through_one(windowed, tokenizer):
    (one,) = prompts(20)[6:7]
    ids = one.ids.tolist()
    for _ in range(one.max_tokens):
        cache = KVCache(windowed.config, 1, len(ids), torch.int8)
        ids.append(int(windowed(torch.tensor([ids]), cache=cache)[0, -1].argmax()))
    assert answers(windowed, tokenizer, [one], kv_cache="int8") == [tokenizer.decode(ids[len(one.ids) :])]


def test_answers_stop_before_a_stop_string_and_at_an_end(model, tokenizer):
    one = prompts(0)[8]
    whole = answers(model, tokenizer, [one])[0]
    stop = whole[3:5]
    cut = Prompt(one.ids, one.max_tokens, stops=(stop,))
    assert answers(model, tokenizer, [cut]) == [whole[: whole.index(stop)]]
    first = tokenizer.encode(whole)[0]
    assert answers(model, tokenizer, [one], ends=frozenset({first}))[0] != whole


def test_draws_follow_the_probabilities(model, tokenizer):
    ids = np.array([1, 300, 301], dtype=np.int32)
    drawn = answers(
        model, tokenizer, [Prompt(ids, 1, temperature=1.0, seed=seed) for seed in range(400)], ends=frozenset()
    )
    with torch.no_grad():
        shares_V = model(torch.tensor([ids.tolist()]))[0, -1].softmax(-1)
    texts = [tokenizer.decode([token]) for token in range(330)]
    likely = {texts[token] for token in shares_V.argsort(descending=True)[:40].tolist()}
    expected = sum(float(share) for share, text in zip(shares_V, texts, strict=True) if text in likely)
    assert sum(text in likely for text in drawn) / 400 == pytest.approx(expected, abs=0.08)
    assert 0.3 < expected < 0.9


def test_a_model_that_says_no_number_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model, "project", lambda x: torch.full((len(x), 330), torch.nan))
    with pytest.raises(DamagedError, match="instead of finite numbers"):
        answers(model, tokenizer, prompts(0)[:2], ends=frozenset())


def test_slots_between_prompt_and_answer_are_never_seen():
    sees = reachable(torch.tensor([2, 4]), 4, 6, 0)
    assert sees.int().tolist() == [[[1, 1, 0, 0, 1, 1]], [[1, 1, 1, 1, 1, 1]]]
    sees = reachable(torch.tensor([2, 4]), 4, 6, 3)
    assert sees.int().tolist() == [[[0, 1, 0, 0, 1, 1]], [[0, 0, 0, 1, 1, 1]]]


def test_only_long_beginnings_are_shared_and_never_a_whole_prompt():
    ids = np.arange(50, dtype=np.int32)
    assert shared_prefix([ids, ids]) == 49
    assert shared_prefix([ids, ids[:20]]) == 0
    assert shared_prefix([ids]) == 0
