"""Rows of instruction data to conversations: messages with a role and a content, in the order in which they were said.

In: a row in one of four layouts. `openai`: {"messages": [{"role", "content"}]}. `sharegpt`: {"conversations": [{"from":
"human" or "gpt", "value"}]}. `alpaca` and `prompt_completion`: columns, of which the last is the answer and the others,
those that are not empty, are the question (instruction, input, output; prompt, completion). Out: the messages, or what
is wrong with them. White space around a content is taken off: what a model generates begins with a word.

A conversation may begin with a system message; user and assistant then take turns, the assistant has the last word,
and nobody says nothing; a system message that is empty is none. An answer of a list with `"weight": 0` (OpenAI's
fine-tuning) or `"train": false` (axolotl) is read but not learned; one at least must be. In a document, `text` is what
was said, with an empty line between messages, which is what duplicates, contamination and judging steps look at; the
messages lie in its metadata as JSON.

What it does not do: calls of tools (such a row is refused), images, several answers to one question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, joined

MESSAGES, REJECTED, LABEL = "messages", "rejected_answer", "answer_label"
"""The metadata under which a document's messages lie; of a pair also the answer that was rejected, which stands in the
place of the last message; of an answer with a label, whether it is `wanted` or `unwanted`."""
WANTED = {True: "wanted", False: "unwanted"}
_ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant",
    "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system",
}  # fmt: skip
_LISTS = {"openai": ("role", "content"), "sharegpt": ("from", "value")}
"""Layouts in which a column holds a list, and the keys of its entries."""


class Message(NamedTuple):
    """What one side says in one turn."""

    role: str
    content: str
    weight: int = 1
    """0 for an answer that is not to be learned."""

    def row(self) -> dict[str, Any]:
        """As templates take it and documents keep it."""
        plain = {"role": self.role, "content": self.content}
        return plain if self.weight else {**plain, "weight": 0}


class MalformedError(Exception):
    """A row is no conversation: the reason under which it is counted, and a sentence about it."""

    def __init__(self, reason: str, finding: str) -> None:
        super().__init__(finding)
        self.reason = reason


def read_messages(config: SourceConfig, row: Mapping[str, Any]) -> list[Message]:
    """The conversation in a row that has the columns of `config`; raises `MalformedError`."""
    columns = config.columns
    if config.conversations in _LISTS:
        return checked(_listed(row[columns[0]], columns[0], *_LISTS[config.conversations]))
    *asked, answer = [row[name] for name in columns]
    if not (answer or "").strip():
        raise MalformedError("empty answer", f"{columns[-1]} is empty, so there is nothing to learn")
    return checked([Message("user", joined(asked)), Message("assistant", answer)])


def checked(messages: list[Message]) -> list[Message]:
    """The messages without white space around them; raises `MalformedError` where they are no conversation."""
    trimmed = [message._replace(content=message.content.strip()) for message in messages]
    if trimmed and trimmed[0][:2] == ("system", ""):  # a system message that says nothing is none
        del trimmed[0]
    turns = trimmed[1:] if trimmed and trimmed[0].role == "system" else trimmed
    if not turns:
        raise MalformedError("no turns", "nobody says anything")
    for number, message in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            raise MalformedError("malformed turns", f"turn {number + 1} is the {message.role}'s, not the {expected}'s")
    for number, message in enumerate(trimmed):
        if not message.content:
            kind = "empty answer" if message.role == "assistant" else "empty question"
            raise MalformedError(kind, f"message {number + 1}, the {message.role}'s, is empty")
    if turns[-1].role != "assistant":
        raise MalformedError("no answer", "the user has the last word")
    if not any(message.weight for message in turns[1::2]):
        raise MalformedError("no answer learned", "every answer has weight 0, so there is nothing to learn")
    return trimmed


def with_messages(document: Document, messages: list[Message], rejected: str = "") -> Document:
    """The document that holds this conversation, and in a pair the answer that was rejected."""
    told = json.dumps([message.row() for message in messages], ensure_ascii=False)
    text = joined([*(message.content for message in messages), rejected])
    more = {MESSAGES: told, **({REJECTED: rejected} if rejected else {})}
    return replace(document, text=text, metadata={**document.metadata, **more})


def messages_of(document: Document) -> list[Message]:
    """The conversation in a document, in a pair with the chosen answer; none in an ordinary one."""
    told = document.metadata.get(MESSAGES)
    return [Message(**message) for message in json.loads(told)] if told else []


def rejected_of(document: Document) -> list[Message]:
    """The conversation with the answer that was rejected; none in a document that is no pair."""
    answer = document.metadata.get(REJECTED)
    return [*messages_of(document)[:-1], Message("assistant", answer)] if answer else []


def spoken_in(document: Document) -> list[Message]:
    """All that is said in a document: its conversation, and of a pair the rejected answer as one message more."""
    return [*messages_of(document), *rejected_of(document)[-1:]]


def with_spoken(document: Document, spoken: list[Message]) -> Document:
    """The document in which this is said instead, in the order of `spoken_in`; raises `MalformedError`."""
    if not document.metadata.get(REJECTED):
        return with_messages(document, checked(spoken))
    return with_messages(document, *different(spoken[:-1], spoken[-1].content))


def different(chosen: list[Message], rejected: str) -> tuple[list[Message], str]:
    """Both answers of a pair without white space around them; raises `MalformedError` if they are empty or equal."""
    messages, answer = checked(chosen), rejected.strip()
    if not answer:
        raise MalformedError("empty answer", "the rejected answer is empty")
    if answer == messages[-1].content:
        raise MalformedError("equal answers", "chosen and rejected answers are equal, so there is nothing to prefer")
    return messages, answer


def _listed(entries: Any, column: str, role_key: str, content_key: str) -> list[Message]:
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except (ValueError, RecursionError) as error:
            raise MalformedError("no conversation", f"{column} is neither a list nor JSON ({error})") from error
    if not isinstance(entries, list):
        raise MalformedError("no conversation", f"{column} holds {type(entries).__name__}, not a list of messages")
    found = []
    for number, entry in enumerate(entries):
        role, content = (entry.get(key) if isinstance(entry, dict) else None for key in (role_key, content_key))
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join(_ROLES)
            raise MalformedError("unknown role", f"{column}[{number}].{role_key} is {role!r}, not one of {known}")
        if call := next((key for key in ("tool_calls", "function_call") if entry.get(key)), ""):
            raise MalformedError("a call of tools", f"{column}[{number}] holds {call}, which is not learned here")
        if not isinstance(content, str):
            raise MalformedError("malformed turns", f"{column}[{number}].{content_key} is {content!r}, not text")
        found.append(Message(_ROLES[role], content, _weight(entry, f"{column}[{number}]")))
    return found


def _weight(entry: Mapping[str, Any], place: str) -> int:
    """Whether a message is learned, by OpenAI's `weight` or axolotl's `train`; yes where it says nothing."""
    for key in ("weight", "train"):
        value = entry.get(key)
        if value is not None and value not in (0, 1):
            raise MalformedError("malformed turns", f"{place}.{key} is {value!r}, not 0 or 1")
    return int(all(entry.get(key) in (None, 1) for key in ("weight", "train")))


def listed_messages(entries: Any, column: str) -> list[Message]:
    """The entries of a list in the layout of OpenAI, without weights; raises `MalformedError`.

    They are not checked as a conversation.
    """
    return [message._replace(weight=1) for message in _listed(entries, column, *_LISTS["openai"])]
