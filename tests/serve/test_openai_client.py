"""What may pass is asked for again, what will not is not, and a server that wants to be left alone is."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from slm.core.errors import UserError
from slm.serve import openai_client as module
from slm.serve.llama_cpp import LlamaCpp
from slm.serve.openai_client import ChatClient, NoAnswerError, RefusedError
from tests.chat_server import ChatServer, Failure

QUESTION = [{"role": "user", "content": "How many legs?"}]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer(lambda _: "eight of them")
    yield made
    made.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=found.append, time=time.time))
    return found


def client(server: ChatServer, **settings: float) -> ChatClient:
    return ChatClient(server.url, "spider", "SOME_KEY", **settings)


def test_an_answer_comes_with_its_tokens_and_settings_reach_the_server(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with client(server) as asking:
        reply = asking.ask(QUESTION, 0.7, max_tokens=9, seed=3)
    assert (reply.text, reply.prompt_tokens, reply.generated_tokens) == ("eight of them", 3, 3)
    body = {"model": "spider", "temperature": 0.7, "messages": QUESTION, "max_tokens": 9, "seed": 3}
    assert server.asked == [body]
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    "trouble",
    [
        Failure(status=429),
        Failure(status=503),
        Failure(status=408),
        Failure(body=b'{"choices": [{"mess'),
        Failure(body=b"\xff"),
        Failure(closes=True),
        Failure(seconds=0.5),
    ],
    ids=["too many requests", "overload", "timeout of the server", "torn JSON", "no text", "closed", "silence"],
)
def test_what_may_pass_is_tried_again(server, monkeypatch, trouble):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)
    server.script = [trouble]
    with client(server, timeout_seconds=0.2 if trouble.seconds else 20) as asking:
        assert asking.ask(QUESTION).text == "eight of them"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (Failure(status=401), "HTTPStatusError: .*401"),
        (Failure(status=400), "HTTPStatusError: .*400"),
        (Failure(body=b'{"choices": []}'), 'its answer is no chat completion: {"choices": '),
        (Failure(body=b"[1]"), "no chat completion"),
    ],
    ids=["no key", "bad request", "no choices", "a list"],
)
def test_what_will_not_pass_is_not_tried_again(server, waits, trouble, reason):
    server.script = [trouble]
    with client(server) as asking, pytest.raises(NoAnswerError, match=reason):
        asking.ask(QUESTION)
    assert len(server.asked) == 1
    assert waits == []


def test_waits_double_and_end_after_the_last_attempt(server, waits):
    server.script = [Failure(status=500)] * 4
    with client(server, attempts=4) as asking, pytest.raises(NoAnswerError, match="500"):
        asking.ask(QUESTION)
    assert len(server.asked) == 4
    assert waits == [1, 2, 4]


def test_parts_of_an_answer_are_put_together_and_other_things_refused(server):
    parts = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "eight "},
        {"type": "text", "text": "legs"},
    ]
    for content, text in ((parts, "eight legs"), (None, "")):
        told = {"choices": [{"message": {"content": content}, "finish_reason": "length"}]}
        server.script = [Failure(body=json.dumps(told).encode())]
        with client(server) as asking:
            reply = asking.ask(QUESTION)
        assert (reply.text, reply.cut) == (text, True)
    for content in (7, {"text": "a"}, [{"no": "type"}]):
        server.script = [Failure(body=json.dumps({"choices": [{"message": {"content": content}}]}).encode())]
        with client(server) as asking, pytest.raises(NoAnswerError, match="no chat completion"):
            asking.ask(QUESTION)


def test_what_a_gateway_says_for_another_server_counts_as_that_status(server, waits):
    server.script = [Failure(body=b'{"error": {"code": 429, "message": "later"}}')]
    with client(server) as asking:
        assert asking.ask(QUESTION).text == "eight of them"
    server.script = [Failure(body=b'{"error": {"code": 400, "message": "too long"}}')]
    with client(server) as asking, pytest.raises(RefusedError, match="too long"):
        asking.ask(QUESTION)
    assert len(waits) == 1


@pytest.mark.parametrize("usage", ["Infinity", "1e999"])
def test_no_count_of_tokens_ends_in_a_traceback(server, usage):
    body = f'{{"choices": [{{"message": {{"content": "a"}}}}], "usage": {{"prompt_tokens": {usage}}}}}'
    server.script = [Failure(body=body.encode())]
    with client(server) as asking, pytest.raises(NoAnswerError, match="no chat completion"):
        asking.ask(QUESTION)


def test_a_key_from_a_file_is_taken_and_one_that_is_none_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret\n")
    with client(server) as asking:
        asking.ask(QUESTION)
    assert server.keys == ["Bearer secret"]
    monkeypatch.setenv("SOME_KEY", "“secret”")
    with pytest.raises(UserError, match="environment variable SOME_KEY holds what no key does") as caught:
        client(server)
    assert "secret" not in str(caught.value)


def test_half_a_character_is_the_questions_fault(server):
    with client(server) as asking, pytest.raises(RefusedError, match="the question holds half a character"):
        asking.ask([{"role": "user", "content": "\ud83d"}])
    assert server.asked == []


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("7", 7, 7), ("0.1", 1, 1), ("3600", 60, 60), ("soon", 1, 1), ("date", 15, 20),
     ("Fri, 31 Dec 99999 23:59:59 GMT", 1, 60)],
    ids=["longer", "shorter", "too long", "no number", "date", "a year of five digits"],
)  # fmt: skip
def test_a_server_is_left_alone_as_long_as_it_asks_but_not_for_ever(server, waits, asked, least, most):
    asked = email.utils.formatdate(time.time() + 20, usegmt=True) if asked == "date" else asked
    server.script = [Failure(status=429, headers={"Retry-After": asked})]
    with client(server) as asking:
        asking.ask(QUESTION)
    assert len(waits) == 1
    assert least <= waits[0] <= most


def test_a_server_that_is_not_there_is_said_so(waits):
    with ChatClient("http://127.0.0.1:9/v1", "m", "NO_KEY") as asking, pytest.raises(NoAnswerError, match="ConnectErr"):
        asking.ask(QUESTION)
    assert len(waits) == 2


def test_llama_cpps_own_server_answers_and_refuses_what_is_too_long(places, monkeypatch):
    with LlamaCpp(Path(places["gguf"]), context_tokens=256, threads=1, timeout_seconds=60) as model:
        monkeypatch.setenv("SOME_KEY", model._key)
        asking = ChatClient(f"http://127.0.0.1:{model._port}/v1", "any", "SOME_KEY")
        first, again = (asking.ask(QUESTION, 0.7, max_tokens=5, seed=1) for _ in range(2))
        with asking, pytest.raises(RefusedError, match="400"):
            asking.ask([{"role": "user", "content": "legs " * 2000}], max_tokens=5)
    assert first.text == again.text
    assert 0 < first.generated_tokens <= 5 < first.prompt_tokens
