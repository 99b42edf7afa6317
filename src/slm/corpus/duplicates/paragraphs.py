"""Paragraphs that stand more than once: all but the first are cut out of their documents.

In: texts, and later the digests of all their paragraphs. Out: which paragraphs to cut, and a text without them. A
paragraph is what lies between empty lines; two are equal if they are in NFC and lower case, white space made equal.
The first is that of the document that is first in the order of documents, and in it the uppermost. Documents that
are left out as duplicates do not count.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm.corpus.duplicates.ranges import groups, shared_keys
from slm.corpus.duplicates.sketch import text_digest
from slm.corpus.words import Hashes, plain_words

FILE = "paragraphs.npy"
CUT = np.dtype([("document", "<i8"), ("paragraph", "<i8")])
_between = re.compile(r"(\n\s*\n)")


def paragraph_digests(row: int, text: str, min_words: int) -> Hashes:
    """Digest, row and number of each paragraph of at least `min_words` words: (N, 4)."""
    found = [
        (*np.frombuffer(text_digest(paragraph), np.uint64).tolist(), row, number)
        for number, paragraph in enumerate(_between.split(text)[::2])
        if len(plain_words(paragraph)) >= min_words
    ]
    return np.array(found, np.uint64).reshape(-1, 4)


def without_paragraphs(text: str, cut: Collection[int]) -> str:
    """`text` without the paragraphs of these numbers; each that stays keeps the empty lines above it."""
    parts = _between.split(text)
    stay = [place for place in range(0, len(parts), 2) if place // 2 not in cut]
    return "".join(parts[place] if place == stay[0] else parts[place - 1] + parts[place] for place in stay)


def write_paragraphs(path: Path, batches: list[Hashes]) -> None:
    """A file of the digests of a unit's paragraphs."""
    np.save(path, np.concatenate([np.empty((0, 4), np.uint64), *batches]))


def read_paragraphs(path: Path, documents: int) -> Hashes:
    """The digests of the paragraphs of the first so many documents."""
    rows_N4: Hashes = np.load(path, mmap_mode="r")
    return rows_N4[: np.searchsorted(rows_N4[:, 2], documents)]


def repeats_in_range(rows_N4: Hashes, order: Hashes) -> NDArray[Any]:
    """Which of these paragraphs (digest, document, number) stand earlier among them, as `CUT` records."""
    documents = rows_N4[:, 2].astype(np.int64)
    keys, rows_N4 = shared_keys(rows_N4[:, :2], rows_N4, (rows_N4[:, 3], rows_N4[:, 2], order[documents]))
    begins_N, _ = groups(keys)
    again = rows_N4[np.arange(len(keys)) != begins_N]
    cuts = np.empty(len(again), CUT)
    cuts["document"], cuts["paragraph"] = again[:, 2], again[:, 3]
    return cuts
