"""Answers over two turns are judged by a server over HTTP, and a server that stops costs nothing."""

from __future__ import annotations

import numpy as np
import pytest

from slm.core.errors import UserError
from slm.evaluate.journal import Journal
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.items import read
from slm.evaluate.tasks.judge import run_open_questions
from slm.serve import openai_client
from slm.serve.config import ServerConfig
from tests.chat_server import ChatServer, Failure

ROWS = [{"question_id": n, "turns": [f"a{n}", "b"]} for n in range(3)]


class Judge(ChatServer):
    """A server that gives what it is told to: words, or a status."""

    def __init__(self) -> None:
        super().__init__(lambda _: "Good. [[7]]")
        self.config = ServerConfig(url=self.url, model="some-judge")


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_WAIT_SECONDS", 0.01)
    made = Judge()
    yield made
    made.close()


@pytest.fixture
def wide(model, tokenizer, monkeypatch) -> Scorer:
    monkeypatch.setattr(Scorer, "context_tokens", 400)
    return Scorer(model, tokenizer, 256)


def test_each_turn_is_rated_after_what_was_said_before(task, wide, judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    judge.script = ["Fine [[3]] or rather [[10]]"]
    config = task("mt_bench", ROWS[:1], max_tokens=4, id_field="question_id")
    outcome = run_open_questions(wide, config, read(config, None), "", judge=judge.config)
    found = [(one.item, one.metric, one.value) for one in outcome.results]
    assert found == [("0", "rating of turn 1", 10.0), ("0", "rating of turn 2", 7.0)]
    words = [body["messages"][0]["content"] for body in judge.asked]
    assert f"user: a0\n\nassistant: {outcome.results[0].answer}" in words[0]
    assert words[1].endswith(f"user: b\n\nassistant: {outcome.results[1].answer}")
    assert {body["model"] for body in judge.asked} == {"some-judge"}
    assert judge.keys == ["Bearer key"] * 2
    talk = [{"role": "user", "content": "a0"}]
    ids = np.array(wide.tokenizer.render_chat(talk), dtype=np.int32)
    assert outcome.results[0].prompt_tokens == len(ids)


def test_verdicts_without_a_rating_are_asked_for_again_and_then_counted(task, wide, judge):
    judge.script = ["no idea", "[[11]]", "hm", "[[2]]"]
    config = task("mt_bench", ROWS[:1], max_tokens=4)
    outcome = run_open_questions(wide, config, read(config, None), "", judge=judge.config)
    assert outcome.skipped == {"the judge gave no rating": 1}
    assert [one.value for one in outcome.results] == [2.0]


def test_a_judge_that_stops_loses_nothing(task, wide, judge, tmp_path):
    config = task("mt_bench", ROWS, max_tokens=4)
    judge.script = ["[[4]]", "[[4]]", *[Failure(status=503)] * 3]
    sentence = (
        r"evaluate.judge.url \(http://127.*\) gave 2 of 6 verdicts and then none \(HTTPStatusError: .*503.*same com"
    )
    journal = Journal(tmp_path / "journal")
    kept = Scorer(wide.model, wide.tokenizer, 256, "fp32", journal)
    with journal, pytest.raises(UserError, match=sentence):
        run_open_questions(kept, config, read(config, None), "", judge=judge.config)
    assert len(judge.asked) == 5
    with Journal(tmp_path / "journal") as journal:
        kept = Scorer(wide.model, wide.tokenizer, 256, "fp32", journal)
        outcome = run_open_questions(kept, config, read(config, None), "", judge=judge.config)
    assert len(judge.asked) == 5 + 4
    assert sorted(one.value for one in outcome.results) == [4, 4, 7, 7, 7, 7]


@pytest.mark.parametrize(
    ("said", "requests", "reason"),
    [(Failure(status=401), 1, "401"), (Failure(body=b'{"odd": 1}'), 1, "no chat completion")],
)
def test_what_will_not_pass_is_not_tried_again(task, wide, judge, said, requests, reason):
    judge.script = [said]
    config = task("mt_bench", ROWS[:1], max_tokens=4)
    with pytest.raises(UserError, match=reason):
        run_open_questions(wide, config, read(config, None), "", judge=judge.config)
    assert len(judge.asked) == requests


def test_what_may_pass_is_tried_again(task, wide, judge):
    judge.script = [Failure(status=429), Failure(status=503), "[[5]]"]
    config = task("mt_bench", ROWS[:1], max_tokens=4)
    outcome = run_open_questions(wide, config, read(config, None), "", judge=judge.config)
    assert [one.value for one in outcome.results] == [5.0, 7.0]


def test_without_a_judge_the_task_is_left_out_with_the_reason(task, wide):
    config = task("mt_bench", ROWS)
    outcome = run_open_questions(wide, config, read(config, None), "", judge=ServerConfig())
    assert outcome.skipped == {"no judge (evaluate.judge.url is empty)": 3}


def test_turns_that_do_not_fit_are_counted(task, scorer, judge):
    config = task("mt_bench", [{"turns": ["a", "é" * 60]}, {"turns": ["é" * 90, "b"]}], max_tokens=2)
    outcome = run_open_questions(scorer, config, read(config, None), "", judge=judge.config)
    assert outcome.skipped == {"turns longer than the context": 2}
    assert [one.metric for one in outcome.results] == ["rating of turn 1"]
