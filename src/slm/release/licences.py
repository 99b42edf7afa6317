"""SPDX licence expressions: known or not, allowed or not.

In: an expression such as `(MIT OR Apache-2.0) AND CC-BY-4.0` and the identifiers that are allowed. Out: whether it is
an expression of identifiers that SPDX knows (the list is that of the `packaging` library, for which PEP 639 made it),
and whether it can be kept with allowed licences alone: all sides of an AND, one side of an OR. An identifier WITH an
exception is allowed where the identifier is, since exceptions only permit more.
"""

from __future__ import annotations

from collections.abc import Collection

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression


def canonical(expression: str) -> str | None:
    """The expression in SPDX's own spelling; None where it is none, or names a licence that SPDX does not know."""
    try:
        found = str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression:
        return None
    return None if "LicenseRef-" in found else found


def is_allowed(expression: str, allowed: Collection[str]) -> bool:
    """Whether a canonical expression can be kept with allowed licences alone."""
    words = expression.replace("(", " ( ").replace(")", " ) ").split()
    known = {name.lower() for name in allowed}
    value = _either(words, known)
    assert not words, expression
    return value


def _either(words: list[str], allowed: Collection[str]) -> bool:
    value = _both(words, allowed)
    while words and words[0] == "OR":
        words.pop(0)
        value = _both(words, allowed) or value
    return value


def _both(words: list[str], allowed: Collection[str]) -> bool:
    value = _one(words, allowed)
    while words and words[0] == "AND":
        words.pop(0)
        value = _one(words, allowed) and value
    return value


def _one(words: list[str], allowed: Collection[str]) -> bool:
    word = words.pop(0)
    if word == "(":
        value = _either(words, allowed)
        words.pop(0)  # the closing bracket
        return value
    if words and words[0] == "WITH":
        del words[:2]
    return word.lower() in allowed
