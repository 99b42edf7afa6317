"""SPDX expressions: against the list that SPDX publishes, and by the rules of AND, OR and WITH."""

from __future__ import annotations

import pytest

from slm.release.config import PERMISSIVE
from slm.release.licences import canonical, is_allowed


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("mit", "MIT"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("(mit or apache-2.0) and CC0-1.0", "(MIT OR Apache-2.0) AND CC0-1.0"),
        ("unknown", None),
        ("", None),
        ("LicenseRef-mine", None),
        ("MIT AND", None),
    ],
)
def test_only_what_spdx_knows_is_a_licence(written, expected):
    assert canonical(written) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT AND CC0-1.0", True),
        ("(GPL-3.0-only OR MIT) AND GPL-2.0-only", False),
        ("(GPL-3.0-only OR (MIT AND CC0-1.0)) AND MIT", True),
        ("MIT WITH Classpath-exception-2.0", True),
    ],
)
def test_an_expression_is_allowed_if_it_can_be_kept(expression, expected):
    assert is_allowed(expression, {"mit", "CC0-1.0"}) == expected


def test_the_permissive_licences_are_spelt_as_spdx_does():
    assert [canonical(name) for name in PERMISSIVE] == list(PERMISSIVE)
