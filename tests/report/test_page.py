from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.report.page import Section, Table, compact, percent, power, scientific, visible


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_345, "12,345"), (524_288, "524k"), (999_960, "1M"), (1_950_000, "1.95M"), (15_300_000, "15.3M"),
     (300_100_000, "300M"), (1.1e9, "1.1B"), (3e12, "3T"), (2.5e15, "2,500T")],
)  # fmt: skip
def test_counts_are_told_in_three_digits(value: float, text: str) -> None:
    assert compact(value) == text


def test_shares_differences_and_powers_read_as_people_write_them() -> None:
    assert percent(0.12345) == "12.3 %"
    assert percent(0.00076, 3) == "0.076 %"
    assert [scientific(value) for value in (0.0, 3.14e-5, 0.00421, 2.5)] == ["0", "3.1e-05", "0.0042", "2.5"]
    assert power(3.48e14) == "3.5·10¹⁴"


def test_columns_of_numbers_are_told_from_columns_of_words() -> None:
    rows = [("1", "1,234", "9 of 9 equal", "3.1 MB", "–", "2.4e-05"), ("b", "-", "–", "900 B", "0.5", "12.5 %")]
    assert Table("", ("a", "b", "c", "d", "e", "f"), rows).numeric == [False, True, False, True, True, True]
    assert Table("", ("a", "b"), []).numeric == [False, False]


def test_a_section_of_words_alone_is_empty() -> None:
    section = Section("key", "Title", "This stage was not run.")
    assert section.empty
    section.tables.append(Table("", ("a",), [("b",)]))
    assert not section.empty


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_text_becomes_text_that_html_can_hold(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not [mark for mark in shown if ord(mark) < 32 and mark not in "\n\t"]
    assert "\x7f" not in shown


def test_plain_text_is_left_alone() -> None:
    assert visible("def f():\n\treturn 'é', 1  \n") == "def f():\n\treturn 'é', 1  \n"
    assert visible("a\r\nb\x00c\x1b") == "a\nb␀c␛"
