"""Rows that say which answers are preferred, to documents.

In: a row in one of three layouts. `pairs`: a prompt and two answers to it, {"prompt", "chosen", "rejected"}, each a
text or a list of {"role", "content"}; an answer's list may also tell the whole conversation. `transcripts`: two whole
conversations, {"chosen", "rejected"}, as such lists or as text in which turns begin with "Human:" and "Assistant:"
after an empty line (hh-rlhf, Bai et al. 2022, arXiv 2204.05862). `labelled`: {"prompt", "completion", "label"}, one
answer and whether it is wanted. Out: a document that holds the conversation up to the chosen or labelled answer, and in
its metadata the rejected answer or the label; or what is wrong with the row.

The common prompt of a pair is all turns before its last answers, and must be the same on both sides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slm.corpus.config import SourceConfig
from slm.corpus.conversations import (
    LABEL,
    WANTED,
    MalformedError,
    Message,
    checked,
    different,
    listed_messages,
    with_messages,
)
from slm.corpus.document import Document

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "-1": False, "0.0": False, "-1.0": False}


def with_preference(config: SourceConfig, document: Document, row: Mapping[str, Any]) -> Document:
    """`document` with the answers in `row`; raises `MalformedError`."""
    values = [row[name] for name in config.columns]
    if config.conversations == "labelled":
        prompt, completion, label = values
        made = with_messages(document, checked(_conversation(prompt, completion, config.columns[:2])))
        return replace(made, metadata={**made.metadata, LABEL: WANTED[_wanted(label, config.columns[2])]})
    names = config.columns[-2:]
    if config.conversations == "pairs":
        told = zip(values[1:], names, strict=True)
        sides = [_conversation(values[0], side, (config.columns[0], name)) for side, name in told]
    else:
        sides = [_transcript(side, name) for side, name in zip(values, names, strict=True)]
    chosen, rejected = map(checked, sides)
    if chosen[:-1] != rejected[:-1]:
        raise MalformedError(
            "different prompts",
            f"{names[0]} and {names[1]} differ before their last answers, so they answer different things",
        )
    return with_messages(document, *different(chosen, rejected[-1].content))


def _conversation(prompt: Any, answer: Any, names: tuple[str, ...]) -> list[Message]:
    """What was asked, and one answer to it, each a text or a list of messages.

    A list that tells what was asked too must hold what `prompt` does, but for a system message, which is taken over.
    """
    prompt, answer = _parsed(prompt), _parsed(answer)
    if isinstance(prompt, list):
        asked = listed_messages(prompt, names[0])
    else:
        asked = [Message("user", _text(prompt, names[0]))]
    if not isinstance(answer, list):
        return [*asked, Message("assistant", _text(answer, names[1]))]
    said = listed_messages(answer, names[1])
    if not said or said[0].role == "assistant":
        return [*asked, *said]
    if asked[:1] and asked[0].role == "system" and said[0].role != "system":
        said = [asked[0], *said]
    before = {message.content.strip() for message in said[:-1]}
    if any(message.content.strip() not in {"", *before} for message in asked):
        raise MalformedError("different prompts", f"{names[1]} does not hold what {names[0]} asks")
    return said


def _parsed(value: Any) -> Any:
    """A list of messages that stands as JSON in a text, as tables hold it; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[") or '"role"' not in value:
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    told = isinstance(found, list) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in found)
    return found if told else value


def _transcript(told: Any, name: str) -> list[Message]:
    told = _parsed(told)
    if isinstance(told, list):
        return listed_messages(told, name)
    before, *parts = _TURN.split(_text(told, name))
    if before.strip() or not parts:
        raise MalformedError("no conversation", f"{name} does not begin with a turn of Human: or Assistant:")
    return [Message(_SPEAKERS[who], said) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str | None):
        raise MalformedError("not text", f"{name} holds {type(value).__name__}, neither text nor a list of messages")
    return value or ""


def _wanted(label: Any, name: str) -> bool:
    found = _LABELS.get(str(label).strip().lower())
    if found is None:
        raise MalformedError("no label", f"{name} is {label!r}, neither true nor false")
    return found
