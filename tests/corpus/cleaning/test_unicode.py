from __future__ import annotations

import unicodedata

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.cleaning.unicode import repaired
from tests.corpus.cleaning.documents import Draw, misread
from tests.corpus.cleaning.running import clean

SETTINGS = ftfy.TextFixerConfig(
    fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False, fix_line_breaks=False,
    normalization=None, explain=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schÃ¶n", "schön"),
        ("It’s “fine” … ﬁ", "It’s “fine” … ﬁ"),
        ("\ufeffa\x00b\x1b[31mc\x1b[0m", "abc"),
        ("e\u0301te\u0301", "été"),
        ("tab\tand\r\nlines\n\n", "tab\tand\r\nlines\n\n"),
        ("fish &amp; chips", "fish &amp; chips"),
    ],
)
def test_what_is_broken_is_repaired_and_nothing_else(text: str, expected: str) -> None:
    assert clean(text, "unicode") == expected


def test_entities_are_decoded_where_asked_and_up_to_the_first_tag() -> None:
    text = "fish &amp; chips\n<b> &amp; so on"
    assert clean(text, "unicode", unescape_html=True) == "fish & chips\n<b> &amp; so on"
    assert clean("schÃ¶n &amp; gut", "unicode", unescape_html=True, repair=False) == "schÃ¶n & gut"


def test_each_half_can_be_switched_off() -> None:
    assert clean("schÃ¶n e\u0301", "unicode", repair=False) == "schÃ¶n é"
    assert clean("schÃ¶n e\u0301", "unicode", normal_form="none") == "schön e\u0301"


@pytest.mark.parametrize("entities", [False, "auto"])
@pytest.mark.parametrize("number", range(40))
def test_passing_good_lines_by_changes_nothing(number: int, entities: bool | str) -> None:
    settings = SETTINGS._replace(unescape_html=entities)
    text = misread(Draw(number))
    assert repaired(text, settings) == ftfy.fix_text(text, settings)


LETTERS = st.text(
    st.one_of(st.characters(codec="utf-8", max_codepoint=0x24F), st.sampled_from("â€œÃ©Â\u0301\x85&amp;<\n ")),
    max_size=60,
)


@given(LETTERS)
def test_repaired_once_is_repaired_for_good(text: str) -> None:
    once = clean(text + ".", "unicode")
    assert clean(once, "unicode") == once
    assert unicodedata.is_normalized("NFC", once)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200))
def test_plain_text_comes_through(text: str) -> None:
    assert clean(text + ".", "unicode") == text + "."
