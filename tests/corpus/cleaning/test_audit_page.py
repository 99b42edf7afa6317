from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.cleaning.audit_page import Pairs, Shown, differences, page, plain

LINE = st.text(
    alphabet=st.characters(exclude_characters="\n\t", exclude_categories=["Cs", "Zs"], include_characters=" "),
    max_size=30,
)


def test_what_cannot_be_seen_is_named_and_lines_stay_lines() -> None:
    assert plain("a\tb\n\x00\r\x1b\u200b\x7fé") == "a\tb\n\\x00\\r\\x1b\\u200b\\x7fé"


def test_what_differs_is_marked_on_its_side() -> None:
    before, after = differences("write to me@here.com\r\n", "write to you@here.com\n")
    assert before == "write to <del>me</del>@here.com<del>\\r</del>\n"
    assert after == "write to <ins>you</ins>@here.com\n"
    assert differences("sch\u00c3\u00b6n, a", "sch\u00f6n, abc", cut=True) == (
        "<del>schÃ¶n</del>, a",
        "<ins>schön</ins>, abc",
    )
    assert differences("a\n b", "a b") == ("a<del>\\n\n</del> b", "a b")
    assert differences("a\u00a0b \u00a0", "a b \u00a0") == ("a<del>\\xa0</del>b \u00a0", "a<ins> </ins>b \u00a0")


@given(LINE, LINE)
def test_without_its_marks_each_side_is_its_text(before: str, after: str) -> None:
    for side, text in zip(differences(before, after), (before, after), strict=True):
        assert html.unescape(re.sub("</?(?:del|ins)>", "", side)) == plain(text)


def test_nothing_that_a_document_holds_is_markup() -> None:
    hostile = Shown("</h3><script>alert(1)</script>", "{title} </pre><script>")
    shown = page("<run>", [Pairs("</h2><b>", [(hostile, hostile)]), Pairs("m", [(hostile, hostile)], marked=True)])
    assert "<script" not in shown
    assert "<b>" not in shown
    assert shown.count("{title} &lt;/pre&gt;&lt;script&gt;") == 4
    assert "Nothing." in page("r", [])
