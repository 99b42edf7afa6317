from __future__ import annotations

import pytest

from tests.corpus.cleaning.running import reason

LINES = [f"This is line number {number} of a text about nothing in particular." for number in range(12)]


def test_ordinary_lines_are_kept() -> None:
    assert reason("\n".join(LINES), "fineweb_quality") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "\n".join([LINES[0], *(f"heading number {number} without end" for number in range(9))]),
            "unpunctuated_lines",
        ),
        ("\n".join([LINES[0], *(f"Short {number}." for number in range(9))]), "short_lines"),
        ("\n".join([*LINES, LINES[0]]), "duplicate_line_characters"),
        ("\n".join(f"{'word' * 9}{number}." for number in range(9)), "list"),
    ],
)
def test_each_rule_gives_its_reason(text: str, found: str) -> None:
    assert reason(text, "fineweb_quality") == found


def test_limits_can_be_moved_and_nought_is_none() -> None:
    text = "\n".join(f"Short {number}" for number in range(9)) + "\n" + "Short 1"
    off = {"min_punctuated_lines": 0, "max_short_lines": 0, "max_duplicate_line_characters": 0}
    assert reason(text, "fineweb_quality", **off, max_newlines_per_word=0) == ""
    assert reason(text, "fineweb_quality", **off) == "list"
    assert reason(text, "fineweb_quality", **off, max_newlines_per_word=0.5) == ""
    assert reason(text, "fineweb_quality", **{**off, "max_short_lines": 0.9}, short_line_characters=5) == "list"
