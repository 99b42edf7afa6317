"""Written answers are compared as the tasks' own scripts compare them."""

from __future__ import annotations

import pytest

from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.answer import judged, last_number, run_answer
from slm.evaluate.tasks.items import few_shot, read

GSM8K = [{"question": f"{n} and {n}?", "answer": f"So {n} + {n} = {2 * n}.\n#### {2 * n}"} for n in (1, 600)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 2 + 2 = 4\n#### 4", 4), ("so $1,000.50 it is", 1000.5), ("#### -3 apples, 9 in all", -3), ("none", None),
        ("1 then 2.", 2), ("#### none of 3", 3), ("7 ####", None),
    ],
)  # fmt: skip
def test_the_number_is_what_follows_the_mark_or_the_last(text, number):
    assert last_number(text) == number


def test_numbers_and_words_are_compared_as_the_tasks_do():
    assert judged("gsm8k", "It is $1,200.", ["1200"]) == {"exact_match": 1.0}
    assert judged("gsm8k", "It is 12", ["1200"]) == {"exact_match": 0.0}
    assert judged("gsm8k", "", ["1200"]) == {"exact_match": 0.0}
    assert judged("squad", " The Panthers.", ["panthers", "x"]) == {"exact_match": 1.0, "f1": 1.0}
    assert judged("squad", "in old Rome", ["Rome", "Italy"]) == {"exact_match": 0.0, "f1": pytest.approx(0.5)}
    assert judged("squad", "", ["Rome"]) == {"exact_match": 0.0, "f1": 0.0}


def test_questions_are_answered_after_the_examples(task, scorer, monkeypatch):
    examples = task("gsm8k", GSM8K[:1], name="train").path
    config = task("gsm8k", GSM8K, max_tokens=4).model_copy(update={"few_shot": 1, "examples": examples})
    asked = []
    monkeypatch.setattr(Scorer, "context_tokens", 400)
    monkeypatch.setattr(Scorer, "answers", lambda *given: asked.extend(given[1]) or [" #### 2", " #### 2"])
    outcome = run_answer(scorer, config, read(config, None), few_shot(config))
    assert [(one.metric, one.value) for one in outcome.results] == [("exact_match", 1.0), ("exact_match", 0.0)]
    assert outcome.results[0].prompt.startswith(
        "Question: 1 and 1?\nAnswer: So 1 + 1 = 2.\n#### 2\n\nQuestion: 1 and 1"
    )
    assert asked[0].stops[0] == "Question:"
    assert asked[0].max_tokens == 4


def test_real_answers_are_written_and_too_long_prompts_counted(task, scorer):
    paragraph = {"context": "def", "qas": [{"question": "in?", "answers": [{"text": "for"}]}]}
    long = {**paragraph, "context": "é" * 80}
    config = task("squad", {"data": [{"paragraphs": [paragraph, long]}]}, suffix="json", max_tokens=5)
    outcome = run_answer(scorer, config, read(config, None), "")
    assert outcome.skipped == {"longer than the context": 1} or len(outcome.results) == 2
    assert {one.metric for one in outcome.results} <= {"exact_match", "f1"}


def test_questions_are_asked_in_a_chat_if_the_task_says_so(task, scorer, monkeypatch):
    asked = []
    monkeypatch.setattr(Scorer, "context_tokens", 400)
    monkeypatch.setattr(Scorer, "answers", lambda _, prompts, _name: asked.extend(prompts) or ["72"])
    rows = [{"question": "Which?", "answer": "That.\n#### 72"}]
    config = task("gsm8k", rows, chat=True, prefix="[label] ", max_tokens=4)
    outcome = run_answer(scorer, config, read(config, None), "")
    talk = [{"role": "user", "content": "[label] Question: Which?\nAnswer:"}]
    assert asked[0].ids.tolist() == scorer.tokenizer.render_chat(talk)
    assert [one.value for one in outcome.results] == [1.0]
