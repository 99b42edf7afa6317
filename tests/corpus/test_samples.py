from __future__ import annotations

import random

from slm.corpus.document import Document
from slm.corpus.samples import KEPT_CHARACTERS, PER_REASON, Samples


def chosen(documents: list[tuple[str, Document]], parts: int = 1) -> list[dict[str, object]]:
    whole = Samples()
    for part in range(parts):
        samples = Samples()
        for reason, document in documents[part::parts]:
            samples.add(reason, document, f"note of {document.id}")
        whole.merge(samples.records())
    return whole.records()


def test_the_sample_is_the_same_however_documents_are_divided() -> None:
    reasons = ("short", "empty", "rare")
    documents = [(reasons[min(2, n % 50 // 20)], Document(f"text {n}", f"s/{n}", "s", "MIT", "o")) for n in range(500)]
    whole = chosen(documents)
    assert chosen(documents, 7) == whole
    random.Random(0).shuffle(documents)
    assert chosen(documents, 3) == whole
    assert [record["reason"] for record in whole] == sorted(["short", "empty", "rare"] * PER_REASON)
    numbers = [int(str(record["id"])[2:]) for record in whole]
    assert max(numbers) > 400
    assert min(numbers) < 100


def test_a_record_holds_the_beginning_of_a_long_text() -> None:
    samples = Samples()
    samples.add("long", Document("x" * 10_000, "s/1", "s", "MIT", "o"), "why")
    (record,) = samples.records()
    assert record == {
        "reason": "long", "id": "s/1", "source": "s", "note": "why", "characters": 10_000,
        "text": "x" * KEPT_CHARACTERS,
    }  # fmt: skip
