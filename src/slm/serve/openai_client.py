"""A model behind OpenAI's chat protocol: vLLM's, llama.cpp's, Ollama's or OpenAI's own server.

In: messages of a role and a content. Out: what the model says, and the tokens that the server counted. What may pass
is tried again, at growing intervals or when the server says (Retry-After): no connection, no answer in time, an answer
cut off in its JSON, too many requests, the server's own trouble. A refusal (another status from 400 on) and an answer
that is no chat completion are not. One client may be shared by threads.

What it does not do: streaming, tools, several answers to one question.
"""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from slm.core.errors import UserError

FIRST_WAIT_SECONDS = 1.0
MOST_WAIT_SECONDS = 60.0
MAY_PASS = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may succeed: OpenAI's own client repeats these."""


REFUSED = (400, 413, 422)
"""Statuses that are about the question and not about the server."""


class NoAnswerError(Exception):
    """The server gave no answer; `str(error)` says why, on one line."""


class RefusedError(NoAnswerError):
    """The server will not answer this question, for its length or its content; others it may."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, with the tokens of prompt and answer as the server counts them; 0 where it does not say."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    cut: bool = False
    """Whether it ended because it had reached the most tokens that were asked for."""


class ChatClient:
    """Asks one model of one server; use it as a context manager."""

    def __init__(
        self, url: str, model: str, key_variable: str, *, timeout_seconds: float = 120.0, attempts: int = 3
    ) -> None:
        """`url` reaches up to /v1; the key, if the server wants one, is in the environment under `key_variable`."""
        key = os.environ.get(key_variable, "").strip()  # files of secrets end with a newline
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"the key in the environment variable {key_variable} holds what no key does; set it again")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._address, self._model, self._attempts = f"{url.rstrip('/')}/chat/completions", model, attempts
        self._client = httpx.Client(timeout=timeout_seconds, headers=headers)

    def ask(self, messages: Sequence[Mapping[str, str]], temperature: float = 0, **settings: Any) -> Reply:
        """The answer; `settings` are further fields of the request, such as max_tokens. Raises `NoAnswerError`."""
        body = {"model": self._model, "temperature": temperature, "messages": list(messages), **settings}
        for attempt in range(1, self._attempts + 1):
            wait = FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
            try:
                answer = self._client.post(self._address, json=body)
                answer.raise_for_status()
                return _reply(answer)
            except httpx.InvalidURL as error:
                raise NoAnswerError(f"{self._address} is no address ({error})") from error
            except UnicodeEncodeError as error:
                raise RefusedError(f"the question holds half a character ({error})") from error
            except (httpx.RequestError, httpx.HTTPStatusError, ValueError) as error:
                last: Exception = error
                if isinstance(error, httpx.HTTPStatusError):
                    if error.response.status_code < 500 and error.response.status_code not in MAY_PASS:
                        break
                    wait = max(wait, _asked_wait(error.response))
            if attempt < self._attempts:
                time.sleep(min(wait, MOST_WAIT_SECONDS))
        kind = NoAnswerError
        if isinstance(last, httpx.HTTPStatusError) and last.response.status_code in REFUSED:
            kind = RefusedError
        told = f": {' '.join(last.response.text.split())[:200]}" if isinstance(last, httpx.HTTPStatusError) else ""
        raise kind(f"{type(last).__name__}: {last}".splitlines()[0][:200] + told) from last

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _reply(answer: httpx.Response) -> Reply:
    """What a response says; `ValueError` where it is not JSON, which another attempt may mend."""
    said = answer.json()
    try:
        if "choices" not in said and (status := int(said["error"]["code"])) in range(400, 600):
            passed_on = httpx.Response(status, headers=answer.headers, text=answer.text, request=answer.request)
            passed_on.raise_for_status()  # gateways answer 200 with what another server said
        choice = said["choices"][0]
        used = said.get("usage") or {}
        asked, answered = (int(used.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
        text = _text(choice["message"]["content"]).encode("utf-8", "replace").decode()  # JSON can hold half a character
        return Reply(text, asked, answered, choice.get("finish_reason") == "length")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise NoAnswerError(f"its answer is no chat completion: {answer.text[:100]}") from error


def _text(content: Any) -> str:
    """What is said: a text, nothing, or the texts among parts (models that think send these apart)."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise TypeError(f"content is {type(content).__name__}")
    return content or ""


def _asked_wait(response: httpx.Response) -> float:
    """The seconds that a server asks to be left alone for; 0 where it does not."""
    asked = response.headers.get("Retry-After", "")
    try:
        return float(asked)
    except ValueError:
        when = email.utils.parsedate_tz(asked)
    try:
        return max(0.0, email.utils.mktime_tz(when) - time.time()) if when else 0.0
    except (ValueError, OverflowError):  # a date that no calendar has
        return 0.0
