"""Exact Jaccard similarity of candidates, from sets of shingles on disk.

In: the numbers of the documents that are in any pair and their texts, read once in order of position. Out: a
memory-mapped file of sorted shingle sets, 8 bytes a shingle, about 1.3 times the text of those documents; and
the similarity of any two of them. Reading them at random costs a page or two each; memory holds one document.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slm.core.console import Progress
from slm.corpus.duplicates.sketch import Sketcher
from slm.corpus.words import Hashes


class ShingleSets:
    """Sorted sets of shingle hashes of some documents, by document number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._borders = self._numbers
        self._shingles: Hashes = np.empty(0, np.uint64)

    def fill(self, numbers: NDArray[np.int64], texts: Iterable[str], sketcher: Sketcher) -> None:
        """Store the sets of `texts`, which belong to the documents `numbers` (ascending)."""
        self._numbers = numbers
        self._borders = np.zeros(len(numbers) + 1, np.int64)
        path = self._folder / "shingles"
        with path.open("wb") as stream, Progress("corpus: near duplicates, reading", len(numbers), "documents") as bar:
            for place, text in enumerate(texts, 1):
                shingles = sketcher.shingle_set(text)
                stream.write(shingles.tobytes())
                self._borders[place] = self._borders[place - 1] + len(shingles)
                bar.advance()
        if len(numbers):
            self._shingles = np.memmap(path, np.uint64, "r")

    def get(self, number: int) -> Hashes:
        """The set of one document."""
        place = int(np.searchsorted(self._numbers, number))
        return self._shingles[self._borders[place] : self._borders[place + 1]]


def jaccard(one: Hashes, other: Hashes, least: float = 0.0) -> float:
    """Shared over united elements of two sorted sets; 0 where sizes alone keep it below `least`."""
    small, large = sorted((one, other), key=len)
    if not len(large) or len(small) < least * len(large):
        return 0.0
    places = np.minimum(np.searchsorted(large, small), len(large) - 1)
    shared = int((large[places] == small).sum())
    return shared / (len(small) + len(large) - shared)
