"""Personal data in answers."""

from __future__ import annotations

import pytest

from slm.safety.personal import personal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe@corp.net or joe@corp.net", (2, 0, 0)),
        ("ping 8.8.8.8 but not 192.168.0.1", (0, 1, 0)),
        ("call +49 30 1234567 or 212-555-0187", (0, 0, 2)),
        ("email@example.com and 192.0.2.1 are nobody's", (0, 0, 0)),
        ("def f(x): return x @ x", (0, 0, 0)),
    ],
)
def test_addresses_and_numbers_are_counted(text, expected):
    assert tuple(personal(text).values()) == expected
