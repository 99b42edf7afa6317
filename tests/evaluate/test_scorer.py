"""Texts in, numbers out, and nothing asked twice."""

from __future__ import annotations

import numpy as np
import pytest

from slm.evaluate.generation import Prompt
from slm.evaluate.golden import greedy, logprob_per_token
from slm.evaluate.journal import Journal
from slm.evaluate.scorer import Scorer


def test_a_pair_scores_as_golden_prompts_do(scorer):
    for context, continuation in (("def return", " self"), ("", "for in"), ("ra", "nge in"), ("世", "界 == é")):
        pair = scorer.pair(context, continuation)
        (found,) = scorer.likelihoods([pair], "test")
        mean = logprob_per_token(scorer.model, scorer.tokenizer, context, continuation, "test")
        assert found.logprob == pytest.approx(mean * (len(pair.ids) - pair.first), abs=1e-4)


def test_a_pair_beyond_the_context_is_none(scorer):
    assert scorer.pair("def " * 200, "self") is None
    longest = max(n for n in range(200) if scorer.pair("é" * n, "x") is not None)
    assert len(scorer.pair("é" * longest, "x").ids) - 1 in (63, 64)


def test_answers_equal_greedy_decoding(scorer):
    texts = ["def return", "for in range yield", "é"]
    prompts = [Prompt(scorer.prompt_ids(text), 12) for text in texts]
    for text, answer in zip(texts, scorer.answers(prompts, "test"), strict=True):
        expected = greedy(scorer.model, scorer.tokenizer, text, 12, "test")
        assert answer == expected


def test_what_the_journal_holds_is_not_asked_again(scorer, tmp_path, monkeypatch):
    pairs = [scorer.pair("def", f" {word}") for word in ("self", "None", "in")]
    prompt = Prompt(scorer.prompt_ids("class"), 5)
    with Journal(tmp_path / "answers") as journal:
        kept = Scorer(scorer.model, scorer.tokenizer, 256, "fp32", journal)
        first, text = kept.likelihoods(pairs[:2], "test"), kept.answers([prompt], "test")
    asked: list[int] = []
    real = __import__("slm.evaluate.scorer", fromlist=["likelihoods"]).likelihoods
    monkeypatch.setattr(
        "slm.evaluate.scorer.likelihoods",
        lambda model, some, **more: asked.append(len(some)) or real(model, some, **more),
    )
    monkeypatch.setattr("slm.evaluate.scorer.generate", lambda *given, **_: iter([[]] if not given[2] else 1 / 0))
    with Journal(tmp_path / "answers") as journal:
        again = Scorer(scorer.model, scorer.tokenizer, 256, "fp32", journal)
        assert again.likelihoods(pairs, "test")[:2] == first
        assert again.answers([prompt], "test") == text
    assert asked == [1]


def test_answers_end_at_the_end_of_a_text_and_of_a_turn(scorer):
    assert len(scorer.ends) == 2
    assert all(scorer.tokenizer.is_control(token) for token in scorer.ends)
    assert np.array_equal(scorer.prompt_ids("def")[:1], [scorer.tokenizer.bos_id])


def test_the_share_of_rare_tokens_is_that_of_the_texts_own_ids(scorer):
    ids = scorer.tokenizer.encode("def return self")
    rare_V = np.zeros(scorer.tokenizer.vocab_size, dtype=bool)
    rare_V[ids[0]] = True
    counting = Scorer(scorer.model, scorer.tokenizer, 256, "fp32", rare_V=rare_V)
    assert counting.rare_token_rate("def return self") == pytest.approx(ids.count(ids[0]) / len(ids))
    assert counting.rare_token_rate("") is None
    assert scorer.rare_token_rate("def return self") is None


def test_in_a_chat_a_continuation_is_the_assistants_turn_with_its_end(scorer):
    talk = [{"role": "user", "content": "def"}, {"role": "assistant", "content": "self"}]
    whole, learned = scorer.tokenizer.encode_chat(talk)
    pair = scorer.pair("def", " self", chat=True)
    assert pair.ids[pair.first :].tolist() == whole[learned].tolist()
    assert pair.ids[: pair.first].tolist() == scorer.prompt_ids("def", chat=True).tolist()
    assert pair.ids[-1] in scorer.ends
