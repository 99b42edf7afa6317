"""Whether answers keep to the template is told from the tokens that end them and from what they spell."""

from __future__ import annotations

import json

import pytest

from slm.core.errors import UserError
from slm.corpus import Document
from slm.corpus.conversations import MESSAGES
from slm.evaluate.generation import Answer, Prompt
from slm.evaluate.tasks import replies as module
from slm.evaluate.tasks.replies import replies
from slm.serve.stream import StopStream

TURN_END, TURN_BEGIN, END_OF_TEXT = 5, 4, 2


def talk(number: int, *said: str) -> Document:
    roles = ("user", "assistant") * len(said)
    messages = [{"role": role, "content": content} for role, content in zip(roles, said, strict=False)]
    return Document("", f"d{number}", "made", "CC0-1.0", "", {MESSAGES: json.dumps(messages)} if said else {})


def told(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, int | None]) -> list[Prompt]:
    """From now on models answer so; returns what they were asked."""
    asked: list[Prompt] = []

    def generate(_, __, prompts, *, ends, **___):
        asked.extend(prompts)
        assert ends == set(range(6))
        found = [
            Answer(number, prompts[number], StopStream(()), text=text, end=end)
            for number, (text, end) in enumerate(answers)
        ]
        yield found[1:]
        yield found[:1]

    monkeypatch.setattr(module, "generate", generate)
    return asked


def test_an_answer_keeps_the_format_if_it_ends_its_turn_and_spells_no_marker(scorer, monkeypatch):
    cases = [
        (("fine", TURN_END), 1, 1),
        ((" ", TURN_END), 1, 0),
        (("and <|im_start|>user", TURN_END), 1, 0),
        (("opens a turn", TURN_BEGIN), 0, 0),
        (("ends the text", END_OF_TEXT), 0, 0),
        (("never ends", None), 0, 0),
    ]
    told(monkeypatch, *(answer for answer, *_ in cases))
    documents = [talk(number, "def?", "yes") for number in range(len(cases))]
    found = replies(scorer, documents, 8).results
    assert [(one.item, one.metric, one.value) for one in found] == [
        (f"d{number}", metric, value)
        for number, (_, ended, kept) in enumerate(cases)
        for metric, value in (("turn_ended", ended), ("format_kept", kept))
    ]


def test_the_last_question_is_asked_by_the_template_and_what_does_not_fit_is_counted(scorer, monkeypatch):
    asked = told(monkeypatch, ("x", TURN_END))
    documents = [talk(0), talk(1, "a", "b", "c", "d"), talk(2, "long " * 60, "b")]
    outcome = replies(scorer, documents, 8)
    messages = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    assert [one.ids.tolist() for one in asked] == [scorer.tokenizer.render_chat(messages)]
    assert {(one.prompt, one.answer) for one in outcome.results} == {("c", "x")}
    assert outcome.skipped == {"longer than the context": 1}


def test_fresh_weights_are_asked_and_end_nothing(scorer):
    assert {one.value for one in replies(scorer, [talk(0, "a", "b")], 4).results} == {0.0}


def test_a_corpus_without_conversations_is_refused(scorer):
    with pytest.raises(UserError, match=r"asks held-out conversations, but the corpus holds none that fits; set it"):
        replies(scorer, [talk(0)], 8)
