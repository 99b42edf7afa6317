"""The probes: enough languages and kinds of code, in their own scripts, none of them cut short."""

from __future__ import annotations

import ast
import json
import unicodedata

import pytest

from slm.tokenizer.probes import PROBES

SCRIPTS = {
    "English": "LATIN", "German": "LATIN", "French": "LATIN", "Spanish": "LATIN", "Polish": "LATIN",
    "Russian": "CYRILLIC", "Arabic": "ARABIC", "Hindi": "DEVANAGARI", "Chinese": "CJK",
}  # fmt: skip


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items())
def test_a_language_is_written_in_its_script(name: str, script: str) -> None:
    letters = [character for character in PROBES[name] if character.isalpha()]
    assert len(letters) > 60
    assert all(unicodedata.name(character).startswith(script) for character in letters)


def test_japanese_is_written_in_three() -> None:
    names = {unicodedata.name(character).split()[0] for character in PROBES["Japanese"] if character.isalpha()}
    assert names >= {"HIRAGANA", "KATAKANA", "CJK"}


def test_text_is_composed_and_of_a_size_that_compares() -> None:
    for text in PROBES.values():
        assert unicodedata.is_normalized("NFC", text)
        assert 150 < len(text.encode()) < 800


def test_code_is_code() -> None:
    assert ast.parse(PROBES["Python"]).body
    assert json.loads(PROBES["JSON"])["measured"][1]["height_m"] == 0.75
    assert PROBES["C"].count("{") == PROBES["C"].count("}") == 2
