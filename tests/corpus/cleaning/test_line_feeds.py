from __future__ import annotations

from tests.corpus.cleaning.running import clean


def test_line_ends_become_line_feeds_and_nothing_else_changes() -> None:
    assert clean("one\r\ntwo\rthree\r\r\nfour\n", "line_feeds") == "one\ntwo\nthree\n\nfour\n"
    text = "tab\t\x85 \u2028 \x0b line\n\n"
    assert clean(text, "line_feeds") == text
