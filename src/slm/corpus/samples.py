"""A few of the documents that were left out or changed, for somebody to look at.

In: every document that is dropped, with its reason, and every one that a cleaning step changes, with the step. Out:
for each reason or step the `PER_NAME` documents whose ids have the smallest hashes: a fair sample, and the same however
the documents were divided, since the smallest of all are among the smallest of each part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from slm.corpus.document import Document

PER_NAME = 12
KEPT_CHARACTERS = 2_000
CHANGED_CHARACTERS, CONTEXT_CHARACTERS = 600, 150
"""Of a changed document, so much is kept from so far before the first change on."""
Record = dict[str, Any]
"""Of a dropped document: reason, id, source, note, characters in all, and the beginning of the text. Of a changed one:
step, id, source, characters before and after, the character at which the excerpts begin, before, and after."""


class Samples:
    """The chosen records by what is in their field `key`; memory holds at most twice `PER_NAME` of each."""

    def __init__(self, key: Literal["reason", "step"]) -> None:
        self._key = key
        self._records: dict[str, list[tuple[str, Record]]] = {}
        self._highest: dict[str, str] = {}
        """The greatest hash that can still be chosen, where it is known."""

    def drop(self, reason: str, document: Document, note: str = "") -> None:
        """Take a dropped document into consideration."""
        if self._may_be_chosen(reason, document.id):
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

    def change(self, step: str, document: Document, before: str, after: str) -> None:
        """Take a document that a step changed into consideration."""
        if self._may_be_chosen(step, document.id):
            differing = (number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
            begin = max(0, next(differing, min(len(before), len(after))) - CONTEXT_CHARACTERS)
            self._offer(
                {
                    "step": step,
                    "id": document.id,
                    "source": document.source,
                    "characters": [len(before), len(after)],
                    "from": begin,
                    "before": before[begin : begin + CHANGED_CHARACTERS],
                    "after": after[begin : begin + CHANGED_CHARACTERS],
                }
            )

    def merge(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take what another part chose into consideration."""
        for record in records:
            self._offer(dict(record))

    def records(self) -> list[Record]:
        """The chosen, by reason or step and then by hash."""
        return [record for name in sorted(self._records) for _, record in _smallest(self._records[name])]

    def _may_be_chosen(self, name: str, identity: str) -> bool:
        return name not in self._highest or _draw(identity) <= self._highest[name]

    def _offer(self, record: Record) -> None:
        name = record[self._key]
        chosen = self._records.setdefault(name, [])
        chosen.append((_draw(record["id"]), record))
        if len(chosen) >= 2 * PER_NAME:
            chosen[:] = _smallest(chosen)
            self._highest[name] = chosen[-1][0]


def _draw(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def _smallest(chosen: list[tuple[str, Record]]) -> list[tuple[str, Record]]:
    return sorted(chosen, key=lambda item: (item[0], repr(item[1])))[:PER_NAME]
