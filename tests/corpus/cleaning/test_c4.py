from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.document import Document, Dropped
from tests.corpus.cleaning.running import clean, cleaner, document, reason

FIVE = "One line is here. Two lines are here. Three of them. Four of them. Five is enough."


def test_lines_that_break_a_rule_go_and_are_counted() -> None:
    lines = [
        FIVE, "Menu", "No full stop at the end of this", "Two words.", "Please enable JavaScript in your browser.",
        "This site uses cookies and more.", f"A {'w' * 1001} is here.", "It trails off into nothing...", "“Yes it is”"
    ]  # fmt: skip
    washer = cleaner({"step": "c4"})
    result = washer(document("\n".join(lines)))
    assert isinstance(result, Document)
    assert result.text == FIVE
    assert washer.tally == {
        "c4/documents changed": 1, "c4/unpunctuated lines": 4, "c4/short lines": 1, "c4/javascript lines": 1,
        "c4/policy lines": 1, "c4/long_word lines": 1,
    }  # fmt: skip


def test_documents_with_a_forbidden_phrase_go() -> None:
    assert reason(f"{FIVE}\nLorem ipsum dolor sit amet.", "c4") == "lorem_ipsum"
    assert reason(f"{FIVE}\nfunction f() {{ return 1; }}.", "c4") == "curly_bracket"
    assert reason(f"{FIVE}\nfunction f() {{ return 1; }}", "c4") == "", "a line that goes anyway does not count"
    assert reason("Only one sentence here.", "c4") == "few_sentences"


def test_each_rule_can_be_switched_off() -> None:
    text = f"{FIVE}\nMenu of the day\nhas javascript {{ and lorem ipsum uses cookies [1]"
    every = dict.fromkeys(
        ["terminal_punctuation", "citations", "javascript", "policies", "lorem_ipsum", "curly_bracket"], False
    )
    assert clean(text, "c4", **every, min_words_per_line=0, max_word_length=0, min_sentences=0) == text
    assert clean("x\nMenu", "c4", terminal_punctuation=False, min_words_per_line=1, min_sentences=0) == "x\nMenu"


def test_citations_go_and_what_they_leave_is_looked_at_again() -> None:
    cited = f"{FIVE} It is known.[1][23] So[edit] it is.[citation needed]"
    assert clean(cited, "c4") == f"{FIVE} It is known. So it is."
    assert clean(f"{FIVE}\n[1] Yes indeed.", "c4") == FIVE, "two words are left"
    assert clean(f"{FIVE} It is[[1]] so.", "c4") == f"{FIVE} It is so."


PIECES = st.sampled_from(
    ["[1]", "[", "]", "[edit]", "1", " ", "\n", "\u2028", "\t", ".", "...", '"', "word", "it is so.", "javascript"]
)


@given(st.lists(PIECES, max_size=60).map("".join))
def test_cleaned_once_is_cleaned_for_good(text: str) -> None:
    washer = cleaner({"step": "c4", "min_sentences": 1})
    once = washer(document(text))
    if not isinstance(once, Dropped):
        assert washer(once) == once
