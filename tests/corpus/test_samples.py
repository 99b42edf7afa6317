from __future__ import annotations

import random

from slm.corpus.document import Document
from slm.corpus.samples import CHANGED_CHARACTERS, CONTEXT_CHARACTERS, KEPT_CHARACTERS, PER_NAME, Samples


def document(name: str, text: str) -> Document:
    return Document(text, name, "s", "MIT", "o")


def chosen(documents: list[tuple[str, Document]], parts: int = 1) -> list[dict[str, object]]:
    whole = Samples("reason")
    for part in range(parts):
        samples = Samples("reason")
        for reason, document in documents[part::parts]:
            samples.drop(reason, document, f"note of {document.id}")
        whole.merge(samples.records())
    return whole.records()


def test_the_sample_is_the_same_however_documents_are_divided() -> None:
    reasons = ("short", "empty", "rare")
    documents = [(reasons[min(2, n % 50 // 20)], document(f"s/{n}", f"text {n}")) for n in range(500)]
    whole = chosen(documents)
    assert chosen(documents, 7) == whole
    random.Random(0).shuffle(documents)
    assert chosen(documents, 3) == whole
    assert [record["reason"] for record in whole] == sorted(["short", "empty", "rare"] * PER_NAME)
    numbers = [int(str(record["id"])[2:]) for record in whole]
    assert max(numbers) > 400
    assert min(numbers) < 100


def test_documents_of_one_id_are_chosen_alike_in_any_order() -> None:
    documents = [("short", document(f"s/{n % 20}", f"text {n}")) for n in range(400)]
    whole = chosen(documents)
    assert len(whole) == PER_NAME
    random.Random(1).shuffle(documents)
    assert chosen(documents) == chosen(documents, 5) == whole


def test_a_record_holds_the_beginning_of_a_long_text() -> None:
    samples = Samples("reason")
    samples.drop("long", document("s/1", "x" * 10_000), "why")
    (record,) = samples.records()
    assert record == {
        "reason": "long", "id": "s/1", "source": "s", "note": "why", "characters": 10_000,
        "text": "x" * KEPT_CHARACTERS,
    }  # fmt: skip


def test_a_changed_document_is_shown_from_shortly_before_its_first_change() -> None:
    samples = Samples("step")
    before = "a" * 1_000 + "@" + "b" * 1_000
    samples.change("pii", document("s/1", "what other steps were given"), before, before.replace("@", ""))
    samples.change("unicode", document("s/2", ""), "\ufeff", "")
    pii, unicode = samples.records()
    rest = CHANGED_CHARACTERS - CONTEXT_CHARACTERS
    assert pii == {
        "step": "pii", "id": "s/1", "source": "s", "characters": [2_001, 2_000], "from": 1_000 - CONTEXT_CHARACTERS,
        "before": "a" * CONTEXT_CHARACTERS + "@" + "b" * (rest - 1), "after": "a" * CONTEXT_CHARACTERS + "b" * rest,
    }  # fmt: skip
    assert (unicode["from"], unicode["before"], unicode["after"]) == (0, "\ufeff", "")
