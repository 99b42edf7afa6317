"""Documents come back in order with their ends, whatever the blocks."""

from __future__ import annotations

import pytest

from slm.corpus import Document
from slm.shards import encode as module
from slm.shards.encode import encode


class Spelling:
    """Encodes each character as its code point and remembers how it was called."""

    bos_id, eos_id = 1, 2

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def encode_documents(self, texts: list[str], threads: int) -> list[list[int]]:
        self.calls.append((len(texts), threads))
        return [[ord(character) for character in text] for text in texts]


@pytest.mark.parametrize(
    ("documents", "characters", "calls"), [(1024, 4_000_000, [7]), (3, 10**6, [3, 3, 1]), (9, 5, [2, 1, 1, 1, 1, 1])]
)
def test_documents_are_encoded_in_bounded_blocks_and_keep_their_order(monkeypatch, documents, characters, calls):
    monkeypatch.setattr(module, "BLOCK_DOCUMENTS", documents)
    monkeypatch.setattr(module, "BLOCK_CHARACTERS", characters)
    texts = ["", "abcdefgh", "x" * 20, "second", "thirds", "fourth", "another"]
    given = [Document(text, str(number), "s", "CC0-1.0", "") for number, text in enumerate(texts)]
    spelling = Spelling()
    found = list(encode(iter(given), spelling, 5))  # type: ignore[arg-type]
    assert [document for document, _ in found] == given
    assert [ids.ids_T.tolist() for _, ids in found] == [[1, *map(ord, text), 2] for text in texts]
    assert spelling.calls == [(count, 5) for count in calls]


def test_no_documents_are_no_ids():
    assert list(encode([], Spelling(), 1)) == []  # type: ignore[arg-type]
