"""What is kept of each document of a unit to find duplicates later.

In: the kept documents of one unit, in order. Out: `signatures.bin` in the unit's folder, 16 bytes a document:
blake2b of its text. Taken where the unit is made, so that many processes share the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm.corpus.buckets import digest
from slm.corpus.document import Document
from slm.corpus.duplicates.config import DuplicatesConfig

FILE = "signatures.bin"


class Signer:
    """Takes the signatures of a unit's documents; memory holds 16 bytes of each."""

    def __init__(self, config: DuplicatesConfig) -> None:
        self._exact = config.exact
        self._content = bytearray()

    def add(self, document: Document) -> None:
        """Take the next document's signature."""
        if self._exact:
            self._content += digest(document.text)

    def write(self, folder: Path) -> None:
        """Write the signatures of all documents into the unit's folder."""
        (folder / FILE).write_bytes(self._content)


def identity(config: DuplicatesConfig) -> dict[str, Any]:
    """What shapes the signatures: a unit whose signatures were taken otherwise is made again."""
    return {"exact": config.exact}
