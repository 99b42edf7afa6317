"""The choice that the model finds likeliest is taken, as a whole and per byte."""

from __future__ import annotations

import pytest

from slm.evaluate.golden import logprob_per_token
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import judged, run_choice
from slm.evaluate.tasks.items import Numbered, few_shot, read
from slm.evaluate.tasks.layouts import Item

ROWS = [
    {"query": "def return", "choices": ["self", "None for in", "é"], "gold": 0},
    {"query": "class", "choices": ["yield", "world é"], "gold": 1},
]


def test_likelihoods_are_those_of_the_choices_after_the_prompt(task, scorer):
    config = task("query", ROWS, language="en")
    outcome = run_choice(scorer, config, read(config, None), "")
    assert [(one.metric, one.chance) for one in outcome.results] == [
        ("acc", 1 / 3), ("acc_bytes", 1 / 3), ("acc", 1 / 2), ("acc_bytes", 1 / 2)
    ]  # fmt: skip
    first = outcome.results[0]
    for choice, logprob in zip(ROWS[0]["choices"], first.choice_logprobs, strict=True):
        mean = logprob_per_token(scorer.model, scorer.tokenizer, "def return", f" {choice}", "test")
        assert logprob == pytest.approx(mean * len(scorer.tokenizer.encode(f" {choice}")), abs=1e-4)
    assert first.choice_bytes == [4, 11, 2]
    assert (first.prompt, first.language, first.source, first.gold) == ("def return", "en", "query", 0)
    assert first.prompt_tokens == len(scorer.tokenizer.encode("def return", bos=True))


def test_the_sum_and_the_sum_per_byte_decide():
    one = Numbered("n", Item("p", (" ab", " abcd"), 1), None)
    by_sum, by_bytes = judged(("mine", "query", "en"), one, "", [-2.0, -3.0], 4)
    assert (by_sum.metric, by_sum.value, by_sum.answer) == ("acc", 0.0, " ab")
    assert (by_bytes.metric, by_bytes.value, by_bytes.answer) == ("acc_bytes", 1.0, " abcd")
    tie = judged(("mine", "query", "en"), Numbered("n", Item("p", (" a", " b"), 0), True), "", [-1.0, -1.0], 4)
    assert [one.value for one in tie] == [1.0, 1.0]
    assert {one.clean for one in tie} == {True}


def test_an_item_longer_than_the_context_is_left_out_and_counted(task, scorer):
    long = {"query": "é" * 90, "choices": ["a", "b"], "gold": 0}
    config = task("query", [ROWS[0], long, ROWS[1]])
    outcome = run_choice(scorer, config, read(config, None), "")
    assert outcome.skipped == {"longer than the context": 1}
    assert len(outcome.results) == 4


def test_examples_stand_in_front_of_each_item(task, scorer):
    examples = task("query", [{"query": "in", "choices": ["a", "for"], "gold": 1}], name="train").path
    config = task("query", ROWS).model_copy(update={"few_shot": 1, "examples": examples})
    outcome = run_choice(scorer, config, read(config, None), few_shot(config))
    assert [one.prompt for one in outcome.results[::2]] == ["in for\n\ndef return", "in for\n\nclass"]
    plain = run_choice(scorer, config, read(config, None), "")
    assert plain.results[0].choice_logprobs != outcome.results[0].choice_logprobs


def test_choices_are_answers_in_a_chat_if_asked_with_the_word_that_names_the_task(task, scorer, monkeypatch):
    monkeypatch.setattr(Scorer, "context_tokens", 400)
    config = task("query", ROWS, chat=True, prefix="[label] ")
    found = run_choice(scorer, config, read(config, None), "").results[0]
    assert found.prompt == "[label] def return"
    pairs = [scorer.pair("[label] def return", choice, chat=True) for choice in found.choices]
    expected = [one.logprob for one in scorer.likelihoods(pairs, "test")]
    assert found.choice_logprobs == pytest.approx(expected)
