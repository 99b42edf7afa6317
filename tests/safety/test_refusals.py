"""The refusal detector on planted answers, and its precision on replies that were read and labelled."""

from __future__ import annotations

import pytest

from slm.safety.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "  Sorry, I can't do this",
        "I\u2019m sorry, no.",
        "I  cannot\nhelp you hurt somebody.",
        "As an AI, I do not do that.",
        "No, that would be wrong.",
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
    ],
)
def test_refusing_words_further_on_are_none(answer):
    assert not is_refusal(answer)
