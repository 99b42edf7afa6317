from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.cleaning.pii import count_phones, is_public, without_emails, without_ips
from slm.corpus.document import Document
from tests.corpus.cleaning.running import clean, cleaner, document


def test_addresses_are_replaced_in_turn_and_counted() -> None:
    washer = cleaner({"step": "pii"})
    result = washer(document("jane.doe@firm.example.net and joe+x@firm.de (or ann@firm.io) use 8.8.8.8, not 10.0.0.1."))
    assert isinstance(result, Document)
    assert result.text == (
        "email@example.com and firstname.lastname@example.org (or email@example.com) use 192.0.2.1, not 10.0.0.1."
    )
    assert washer.tally == {"pii/emails": 3, "pii/public IPs": 1, "pii/documents changed": 1}


@pytest.mark.parametrize(
    "text", ["@name", "a@b", "at @ all", "a@-b.cd", "1.2.3", "256.300.1.1", "127.0.0.1", "010.8.8.8"]
)
def test_what_is_no_public_address_stays(text: str) -> None:
    assert clean(text, "pii") == text


def test_a_replacement_is_left_where_it_stands_already() -> None:
    text = "write to firstname.lastname@example.org or email@example.com"
    assert without_emails(text) == (text, 0)
    assert without_emails(f"{text} or a@b.cd") == (f"{text} or email@example.com", 1)


def test_an_address_is_public_if_everybody_can_reach_it() -> None:
    assert [is_public(address) for address in ("8.8.8.8", "192.168.1.1", "192.0.2.1", "08.8.8.8", "8.8.8")] == [
        True, False, False, False, False
    ]  # fmt: skip


def test_parts_can_be_switched_off() -> None:
    text = "a@b.cd 8.8.8.8 +49 30 1234567"
    assert clean(text, "pii", emails=False) == "a@b.cd 192.0.2.1 +49 30 1234567"
    assert clean(text, "pii", ips=False) == "email@example.com 8.8.8.8 +49 30 1234567"
    washer = cleaner({"step": "pii", "phones": False})
    result = washer(document(text))
    assert isinstance(result, Document)
    assert "phones" not in result.metadata


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("call +1 415 555 2671 or (415) 555-2671", 2),
        ("+49 30 1234567, +44 20 7946 0958", 2),
        ("415-555-2671", 1),
        ("415.555.2671 today", 1),
        ("ISBN 978-3-16-148410-0", 0),
        ("in 2019-2020 1000 people", 0),
        ("1+2 3 4 and x+12345678y", 0),
        ("https://example.net/415-555-2671", 0),
        ("3.14159-265-3589", 0),
    ],
)
def test_telephone_numbers_are_counted_and_kept(text: str, count: int) -> None:
    assert count_phones(text) == count
    result = cleaner({"step": "pii"})(document(text))
    assert isinstance(result, Document)
    assert result.text == text
    assert result.metadata.get("phones", "0") == str(count)


PIECES = st.sampled_from(["a@b.cd", "email@example.com", "8.8.8.8", "1", ".", "@", "9", "192.0.2.1", " ", "x", "é"])


@given(st.lists(PIECES, max_size=40).map("".join))
def test_replaced_once_is_replaced_for_good(text: str) -> None:
    washer = cleaner({"step": "pii"})
    once = washer(document(text + "."))
    assert isinstance(once, Document)
    assert washer(once) == once
    assert without_ips(without_emails(once.text)[0])[0] == once.text


def test_long_runs_without_an_address_take_no_longer_by_the_square() -> None:
    base64 = "QUJD/REVG+0hJSks" * 20_000
    began = time.process_time()
    assert clean(f"{base64}@", "pii") == f"{base64}@"
    assert time.process_time() - began < 2
