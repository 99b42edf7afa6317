"""The sketches of one unit's documents, taken where the unit is made, so that many processes share the work.

In: the kept documents of a unit, in order. Out: `sketches.arrow` in the unit's folder, 24 + 8 x bands bytes a
document (136 at 14 bands), which memory holds until it is written; and `paragraphs.npy`, 32 bytes a paragraph, if
paragraphs are compared too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm.corpus.conversations import MESSAGES
from slm.corpus.document import Document
from slm.corpus.duplicates import paragraphs
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.paragraphs import paragraph_digests, write_paragraphs
from slm.corpus.duplicates.sketch import Scheme, Sketcher, Sketches, write_sketches
from slm.corpus.words import Hashes

FILE = "sketches.arrow"
BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 20


class Signer:
    """Takes the sketches of a unit's documents."""

    def __init__(self, config: DuplicatesConfig) -> None:
        self._config, self._documents = config, 0
        self._paragraphs: list[Hashes] = []
        self._sketcher = Sketcher(Scheme.of(config)) if config.exact else None
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._alone: list[bool] = []
        self._characters = 0
        self._done: list[Sketches] = []

    def add(self, document: Document) -> None:
        """Take the next document's sketch."""
        if self._config.paragraphs:
            self._paragraphs.append(paragraph_digests(self._documents, document.text, self._config.min_paragraph_words))
        self._documents += 1
        self._ids.append(document.id)
        self._texts.append(document.text)
        self._alone.append(MESSAGES in document.metadata and not self._config.near_conversations)
        self._characters += len(document.text)
        if len(self._ids) == BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def write(self, folder: Path) -> None:
        """Write the sketches of all documents into the unit's folder."""
        self._flush()
        if self._sketcher is not None:
            write_sketches(folder / FILE, self._sketcher.scheme, self._done)
        if self._config.paragraphs:
            write_paragraphs(folder / paragraphs.FILE, self._paragraphs)

    def _flush(self) -> None:
        if self._sketcher is not None and self._ids:
            self._done.append(self._sketcher.sketch(self._ids, self._texts, self._alone))
        self._ids, self._texts, self._alone, self._characters = [], [], [], 0


def identity(config: DuplicatesConfig) -> dict[str, Any]:
    """What shapes the sketches: a unit whose sketches were taken otherwise is made again."""
    more = {"min_paragraph_words": config.min_paragraph_words} if config.paragraphs else {}
    more |= {"near_conversations": config.near_conversations} if config.near else {}
    return {**Scheme.of(config).record(), **more} if config.exact else {}
