"""A few of the documents that were left out, for somebody to look at.

In: every document that is dropped, with its reason. Out: for each reason the `PER_REASON` documents whose ids have
the smallest hashes: a fair sample, and the same however the documents were divided, since the smallest of all are
among the smallest of each part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from slm.corpus.document import Document

PER_REASON = 12
KEPT_CHARACTERS = 2_000
Record = dict[str, Any]
"""reason, id, source, note, characters in all, and the beginning of the text."""


class Samples:
    """The chosen records by reason; memory holds at most twice `PER_REASON` of each."""

    def __init__(self) -> None:
        self._records: dict[str, list[tuple[str, Record]]] = {}

    def add(self, reason: str, document: Document, note: str = "") -> None:
        """Take a dropped document into consideration."""
        self._offer(
            {
                "reason": reason,
                "id": document.id,
                "source": document.source,
                "note": note,
                "characters": len(document.text),
                "text": document.text[:KEPT_CHARACTERS],
            }
        )

    def merge(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take what another part chose into consideration."""
        for record in records:
            self._offer(dict(record))

    def records(self) -> list[Record]:
        """The chosen, by reason and then by hash."""
        return [record for reason in sorted(self._records) for _, record in _smallest(self._records[reason])]

    def _offer(self, record: Record) -> None:
        chosen = self._records.setdefault(record["reason"], [])
        chosen.append((hashlib.blake2b(record["id"].encode(), digest_size=8).hexdigest(), record))
        if len(chosen) >= 2 * PER_REASON:
            chosen[:] = _smallest(chosen)


def _smallest(chosen: list[tuple[str, Record]]) -> list[tuple[str, Record]]:
    return sorted(chosen, key=lambda item: (item[0], item[1]["id"], item[1]["text"]))[:PER_REASON]
