from __future__ import annotations

from slm.corpus.decontamination.check import Decontaminator, identity
from slm.corpus.decontamination.config import DecontaminationConfig
from slm.corpus.document import Document


def test_without_evaluations_every_document_stays_and_nothing_is_counted() -> None:
    check = Decontaminator(DecontaminationConfig())
    assert check(Document("any text", "a", "s", "MIT", "o")) is None
    assert not check.tally
    assert identity(check.config) == {}
