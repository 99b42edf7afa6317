"""One pass over a corpus for its data card: lengths, languages, licences, and a few documents to look at.

In: a corpus artifact. Out: a `Scan` of both splits together. Documents to look at are those with the smallest hash
of their id, so the choice is the same each time and no one's. Memory is a batch of documents and the excerpts; cost
is about 4 us a document and reading the files.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from slm.core.artifact import Artifact
from slm.core.console import Progress
from slm.corpus import SPLITS

NOT_RECORDED = "not recorded"
EXCERPTS_PER_SOURCE = 2
EXCERPT_CHARACTERS = 600
BATCH_ROWS = 256


@dataclass(slots=True)
class Group:
    """Documents that have something in common."""

    documents: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a document."""

    source: str
    id: str
    text: str
    characters: int


@dataclass(slots=True)
class Scan:
    """What a pass over all documents finds."""

    languages: dict[str, Group] = field(default_factory=dict)
    licences: dict[str, Group] = field(default_factory=dict)
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by length: key n counts those of 2**(n - 1) to 2**n - 1 bytes."""
    shortest: int = 0
    longest: int = 0
    excerpts: list[Excerpt] = field(default_factory=list)

    def add(self, text_bytes: int, language: str, licence: str) -> None:
        """Count a document."""
        for groups, name in ((self.languages, language), (self.licences, licence)):
            group = groups.setdefault(name, Group())
            group.documents += 1
            group.bytes += text_bytes
        self.shortest = text_bytes if not self.lengths else min(self.shortest, text_bytes)
        self.lengths[text_bytes.bit_length()] += 1
        self.longest = max(self.longest, text_bytes)


def scan(corpus: Artifact) -> Scan:
    """Go through `corpus` once."""
    found = Scan()
    chosen: dict[str, list[tuple[int, str, Excerpt]]] = {}
    total = sum(corpus.counts[split]["documents"] for split in SPLITS)
    with Progress("card: looking at the corpus", total, "documents") as progress:
        for row in _rows(corpus):
            language = json.loads(row["metadata"]).get("language") or NOT_RECORDED
            found.add(len(row["text"].encode()), language, row["licence"] or NOT_RECORDED)
            kept = chosen.setdefault(row["source"], [])
            draw = -zlib.crc32(row["id"].encode())
            if len(kept) < EXCERPTS_PER_SOURCE or draw > kept[0][0]:
                excerpt = Excerpt(row["source"], row["id"], row["text"][:EXCERPT_CHARACTERS], len(row["text"]))
                heapq.heappush(kept, (draw, row["id"], excerpt))
                if len(kept) > EXCERPTS_PER_SOURCE:
                    heapq.heappop(kept)
            progress.advance()
    found.excerpts = [
        excerpt for kept in chosen.values() for _, _, excerpt in sorted(kept, key=lambda e: (-e[0], e[1]))
    ]
    return found


def _rows(corpus: Artifact) -> Iterator[dict[str, str]]:
    columns = ["text", "id", "source", "licence", "metadata"]
    for split in SPLITS:
        for name in sorted(name for name in corpus.manifest["files"] if name.startswith(f"{split}-")):
            with pq.ParquetFile(corpus.file(name)) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    yield from batch.to_pylist()
