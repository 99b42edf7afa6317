from __future__ import annotations

from slm.corpus.cleaning import cleaner
from slm.corpus.cleaning.cleaner import Cleaner, identity
from slm.corpus.cleaning.config import StepConfig
from slm.corpus.document import Document, Dropped

NFC = StepConfig(name="nfc")


def test_nfc_joins_a_letter_and_its_accent_and_keeps_the_rest() -> None:
    document = Document("Cafe\u0301", "a", "s", "MIT", "o", {"k": "v"})
    cleaned = Cleaner([NFC])(document)
    assert cleaned == Document("Caf\u00e9", "a", "s", "MIT", "o", {"k": "v"})
    assert Cleaner([])(document) is document


def test_the_first_step_that_drops_a_document_gives_the_reason(monkeypatch) -> None:
    monkeypatch.setitem(cleaner.STEPS, "nfc", lambda document: Dropped(f"is {document.text}"))
    assert Cleaner([NFC, NFC])(Document("x", "a", "s", "MIT", "o")) == Dropped("is x")


def test_the_identity_names_the_tables_of_the_steps_in_use() -> None:
    assert list(identity([NFC])) == ["unicode"]
    assert identity([]) == {}
