"""All sketches of a corpus to the documents that are left out.

In: folders of sketches, whose documents are numbered through in the order of the folders, and a function that reads
texts by number. Out: one record per document left out: its number, the number of the document that stands for it,
their similarity; one per paragraph to cut; sorted by number.

Steps, each over files on disk: digests are spread over ranges and sorted, and copies go; band keys of the others
likewise, and documents that share one make pairs; pairs are sorted by the later document's order and made unique;
texts of documents in pairs are read once; pairs are compared in order, against documents that stay. Memory: about
100 MB, and 16 bytes per document in a pair, and 50 per document left out. Disk, deleted at the end: 9 + 16 x bands
bytes per document (233 at 14 bands), 16 per pair, and the shingle sets of the documents in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slm.core.console import Progress
from slm.corpus.duplicates import paragraphs
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.paragraphs import CUT, read_paragraphs, repeats_in_range
from slm.corpus.duplicates.ranges import CROWD, Ranges, copies_in_range, even_borders, pairs_in_range, sampled_borders
from slm.corpus.duplicates.signatures import FILE
from slm.corpus.duplicates.sketch import Scheme, Sketcher, Sketches, read_sketches
from slm.corpus.duplicates.verify import ShingleSets, jaccard

Texts = Callable[[NDArray[np.int64]], Iterable[str]]
"""Texts of the documents with these ascending numbers, in that order."""

DUPLICATE = np.dtype([("document", "<i8"), ("kept", "<i8"), ("jaccard", "<f8"), ("copy", "?")])
SAMPLE = 1 << 16
SOURCE_BITS = 16
"""Bits of an order key that name the source."""


class UnitSketches(NamedTuple):
    """A folder with sketches, how many of its documents count, and the place of their source in the recipe."""

    folder: Path
    documents: int
    source: int


class Duplicates(NamedTuple):
    """What to leave out: documents (`DUPLICATE` records) and paragraphs (`CUT` records), sorted by number."""

    documents: NDArray[Any]
    paragraphs: NDArray[Any]
    figures: Figures


@dataclass(slots=True)
class Figures:
    """What was found, in numbers; `record` goes into the manifest."""

    scheme: Scheme
    threshold: float
    documents: int = 0
    copies: int = 0
    candidate_pairs: int = 0
    compared_pairs: int = 0
    crowded_keys: int = 0
    near: int = 0
    paragraphs: int = 0
    similarities: dict[str, int] = field(default_factory=dict)
    """Near duplicates by similarity, in steps of 0.05."""

    def record(self) -> dict[str, Any]:
        """Plain JSON values."""
        numbers = {name: getattr(self, name) for name in Figures.__slots__ if name != "scheme"}
        return {"scheme": self.scheme.record(), **numbers}


def find_duplicates(units: Sequence[UnitSketches], texts: Texts, config: DuplicatesConfig, folder: Path) -> Duplicates:
    """All that is to be left out of the documents of `units`; works in `folder`."""
    search = _Search(units, config, folder)
    copies = search.copies()
    near = search.near(texts) if config.near else np.empty(0, DUPLICATE)
    cuts = search.paragraphs() if config.paragraphs else np.empty(0, CUT)
    search.clean()
    if len(near):  # a copy of a document that goes itself has the same one standing for it
        near = near[np.argsort(near["document"])]
        place = np.minimum(np.searchsorted(near["document"], copies["kept"]), len(near) - 1)
        gone = near["document"][place] == copies["kept"]
        copies["kept"][gone], copies["jaccard"][gone] = near["kept"][place[gone]], near["jaccard"][place[gone]]
    together = np.concatenate([copies, near])
    return Duplicates(together[np.argsort(together["document"])], cuts, search.figures)


class _Search:
    def __init__(self, units: Sequence[UnitSketches], config: DuplicatesConfig, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scheme = Scheme.of(config)
        self.figures = Figures(self.scheme, config.threshold, sum(unit.documents for unit in units))
        self._units, self._threshold, self._folder = units, config.threshold, folder
        size = max(1, self.figures.documents)  # no file of no bytes can be mapped
        self._order = np.memmap(folder / "order", np.uint64, "w+", shape=size)
        self._dropped = np.memmap(folder / "dropped", np.bool_, "w+", shape=size)
        for numbers, source, sketches in self._sketches("order"):
            self._order[numbers] = (sketches.order_D >> np.uint64(SOURCE_BITS)) | np.uint64(source << 64 - SOURCE_BITS)

    def copies(self) -> NDArray[Any]:
        """Mark and return the documents whose digest one that stands before them has."""
        ranges = Ranges(self._folder, "digests", 3, even_borders(self.figures.documents, 3))
        with ranges:
            for numbers, _, (_, digest_D2, _) in self._sketches("copies"):
                ranges.add(digest_D2[:, 1], np.column_stack([digest_D2, numbers.astype(np.uint64)]))
        found = [copies_in_range(rows, self._order) for rows in ranges]
        ranges.delete()
        pairs = np.concatenate(found).astype(np.int64)
        self._dropped[pairs[:, 0]] = True
        self.figures.copies = len(pairs)
        records = np.ones(len(pairs), DUPLICATE)
        records["document"], records["kept"] = pairs.T
        return records

    def near(self, texts: Texts) -> NDArray[Any]:
        """Mark and return the documents that are alike to one that stays."""
        pairs = self._candidates()
        in_pairs = np.memmap(self._folder / "in-pairs", np.bool_, "w+", shape=len(self._order))
        for rows in pairs:
            in_pairs[rows.ravel().astype(np.int64)] = True
        numbers = np.flatnonzero(in_pairs)
        sets = ShingleSets(self._folder)
        sets.fill(numbers, texts(numbers) if len(numbers) else (), Sketcher(self.scheme))
        records = self._compare(pairs, sets)
        pairs.delete()
        self.figures.near = len(records)
        steps, counts = np.unique(np.floor(records["jaccard"] * 20 + 1e-9) / 20, return_counts=True)
        self.figures.similarities = {f"{step:.2f}": int(count) for step, count in zip(steps, counts, strict=True)}
        return records

    def paragraphs(self) -> NDArray[Any]:
        """The paragraphs to cut out of the documents that stay."""
        files = [(unit.folder / paragraphs.FILE, unit.documents) for unit in self._units]
        total = sum(len(read_paragraphs(*file)) for file in files)
        ranges = Ranges(self._folder, "paragraphs", 4, even_borders(total, 4))
        first = 0
        with ranges:
            for file in files:
                rows_N4 = np.array(read_paragraphs(*file))
                rows_N4[:, 2] += np.uint64(first)
                first += file[1]
                rows_N4 = rows_N4[~self._dropped[rows_N4[:, 2].astype(np.int64)]]
                ranges.add(rows_N4[:, 1], rows_N4)
        cuts = np.concatenate([repeats_in_range(rows, self._order) for rows in ranges])
        ranges.delete()
        self.figures.paragraphs = len(cuts)
        return np.sort(cuts, order=["document", "paragraph"])

    def clean(self) -> None:
        """Delete the working files."""
        for name in ("order", "in-pairs", "dropped", "shingles"):
            (self._folder / name).unlink(missing_ok=True)

    def _sketches(self, what: str) -> Iterator[tuple[NDArray[np.int64], int, Sketches]]:
        """All sketches with the numbers of their documents and their source."""
        first = 0
        with Progress(f"corpus: duplicates, {what}", self.figures.documents, "documents") as bar:
            for unit in self._units:
                for sketches in read_sketches(unit.folder / FILE, self.scheme, unit.documents):
                    count = len(sketches.order_D)
                    yield np.arange(first, first + count), unit.source, sketches
                    first += count
                    bar.advance(count)

    def _candidates(self) -> Ranges:
        """Pairs (later, earlier) of documents that share a band's key, in ranges of the later one's order."""
        bands = self.scheme.bands
        ranges = Ranges(self._folder, "bands", 2, even_borders(self.figures.documents * bands, 2))
        with ranges:
            for numbers, _, (_, _, keys_DB) in self._sketches("band keys"):
                stay = ~self._dropped[numbers]
                keys = keys_DB[stay].ravel()
                ranges.add(keys, np.column_stack([keys, np.repeat(numbers[stay], bands).astype(np.uint64)]))
        sample = np.asarray(self._order[:: max(1, len(self._order) // SAMPLE)])
        pairs = Ranges(self._folder, "pairs", 2, sampled_borders(sample, self.figures.documents * CROWD, 2))
        with pairs:
            for rows in ranges:
                portions, crowded = pairs_in_range(rows, self._order)
                for chosen in portions:
                    pairs.add(self._order[chosen[:, 0].astype(np.int64)], chosen)
                self.figures.crowded_keys += crowded
        ranges.delete()
        return pairs

    def _compare(self, pairs: Ranges, sets: ShingleSets) -> NDArray[Any]:
        """Go through the pairs in the later document's order; it goes at the first likeness to one that stays."""
        records = [np.empty(0, DUPLICATE)]
        with Progress("corpus: duplicates, comparing", pairs.rows, "pairs") as bar:
            for rows in pairs:
                unique = self._in_order(rows.astype(np.int64))
                self.figures.candidate_pairs += len(unique)
                here: list[tuple[int, int, float, bool]] = []
                for one, other in unique.tolist():
                    if not (self._dropped[one] or self._dropped[other]):
                        self.figures.compared_pairs += 1
                        alike = jaccard(sets.get(one), sets.get(other), self._threshold)
                        if alike >= self._threshold:
                            self._dropped[one] = True
                            here.append((one, other, alike, False))
                records.append(np.array(here, DUPLICATE))
                bar.advance(len(rows))
        return np.concatenate(records)

    def _in_order(self, pairs_N2: NDArray[np.int64]) -> NDArray[np.int64]:
        """Each pair once, by the order of the later document, then of the earlier."""
        later, earlier = pairs_N2.T
        pairs_N2 = pairs_N2[np.lexsort((earlier, self._order[earlier], later, self._order[later]))]
        new = np.ones(len(pairs_N2), np.bool_)
        new[1:] = (pairs_N2[1:] != pairs_N2[:-1]).any(axis=1)
        return pairs_N2[new]
