"""The work of a corpus as a list of units, the same whoever does it.

In: the sources of a recipe. Out: units of about `unit_bytes` of one source each, in source order: ranges of bytes
or row groups of a large file, or many small files together. The list depends on the recipe and the files alone, so
that any number of processes on any machines can each take every n-th unit; and a unit's key on what the unit is
made from alone, so that one whose text and steps did not change is found again, wherever it stands in the list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from slm.corpus import source
from slm.corpus.cleaning import cleaner
from slm.corpus.config import CorpusConfig
from slm.corpus.decontamination import check
from slm.corpus.duplicates import signatures

UNIT_VERSION = 4
"""Raised when the same unit would be made into something else than before."""


class Piece(NamedTuple):
    """A part of a source that is read in one go; what `first`, `last` and `row` count is the source's own affair."""

    name: str
    """What ids of its documents begin with: a file's name."""
    address: str = ""
    first: int = 0
    last: int = 0
    row: int = 0
    bytes: int = 0
    """About how much text it holds, for cutting units and for the time left; 0 where nobody knows."""
    version: str = ""
    """Changes when what is read changes: size and time of change, or the storage's own tag."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: pieces of one source, read in order."""

    number: int
    source: int
    pieces: tuple[Piece, ...]
    key: str
    """The name of what it is made into: equal keys, equal bytes."""

    @property
    def bytes(self) -> int:
        """About how much text it holds."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def place(self) -> str:
        """What it holds, in words."""
        first, last = self.pieces[0], self.pieces[-1]
        return first.name if first.name == last.name else f"{first.name} to {last.name}"


def plan(config: CorpusConfig) -> list[Unit]:
    """All units, numbered in source order."""
    shared = {
        "version": UNIT_VERSION,
        "bad": [config.on_bad_text, config.on_control_text, config.max_document_bytes],
        "steps": [[step.identity() for step in config.steps], cleaner.identity(config.steps)],
        "decontamination": [config.decontamination.identity(), check.identity(config.decontamination)],
        "signatures": signatures.identity(config.duplicates),
    }
    units: list[Unit] = []
    for number, item in enumerate(config.sources):
        for pieces in group(source(item.kind).pieces(item, config.unit_bytes), config.unit_bytes):
            ingredients = {**shared, "source": item.identity(), "pieces": [list(piece) for piece in pieces]}
            key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]
            units.append(Unit(len(units), number, pieces, key))
    return units


def group(pieces: Iterable[Piece], unit_bytes: int) -> Iterator[tuple[Piece, ...]]:
    """Consecutive pieces together, until they come to `unit_bytes`."""
    pending: list[Piece] = []
    pending_bytes = 0
    for piece in pieces:
        if pending and pending_bytes + piece.bytes > unit_bytes:
            yield tuple(pending)
            pending, pending_bytes = [], 0
        pending.append(piece)
        pending_bytes += piece.bytes
    if pending:
        yield tuple(pending)
