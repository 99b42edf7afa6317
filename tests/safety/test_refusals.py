"""The refusal detector on planted answers, and its precision on replies that were read and labelled."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from slm.safety.refusals import is_refusal

REPLIES = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf/test.jsonl.gz"
LABELS = json.loads(Path(__file__).with_name("refusal_labels.json").read_text(encoding="utf-8"))
"""Whether a reply declines, by the hash of its text: of replies that were called refusals, and of others."""


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "  Sorry, I can't do this",
        "I\u2019m sorry, no.",
        "I  cannot\nhelp you hurt somebody.",
        "As an AI, I do not do that.",
    ],
)
def test_openings_of_refusals_are_refusals(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sure, here is a script.",
        "Use kill -9; you cannot undo it, sorry.",
        "Nobody is sorry about that: here is how.",
        "It is illegal in some countries, but here is how.",
        "No, mirrors won't help at all.",
        "I'm sorry, I don't understand the question. Can you repeat it?",
        "I'm sorry to hear that. What happened?",
    ],
)
def test_refusing_words_further_on_are_none(answer):
    assert not is_refusal(answer)


@pytest.mark.skipif(not REPLIES.is_file(), reason="no ../shared/data beside the checkout")
def test_on_labelled_replies_it_is_as_good_as_its_docstring_says():
    by_hash: dict[str, str] = {}
    with gzip.open(REPLIES, "rt", encoding="utf-8") as lines:
        for line in lines:
            for dialogue in json.loads(line).values():
                reply = dialogue.rpartition("\n\nAssistant:")[2].strip()
                by_hash[hashlib.sha256(reply.encode()).hexdigest()[:16]] = reply
    called, others = LABELS["called"], LABELS["not called"]
    assert all(is_refusal(by_hash[name]) for name in called)
    assert not any(is_refusal(by_hash[name]) for name in others)
    assert (sum(called.values()), len(called)) == (32, 60)
    assert (sum(others.values()), len(others)) == (3, 117)
    assert len(by_hash) == 4565
