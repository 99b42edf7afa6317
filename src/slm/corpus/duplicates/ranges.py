"""Records on disk in ranges of a key, and the pairs of documents that share one.

In: records added in any order. Out: the same records a range at a time, each range small enough to sort in
memory. That is the whole of external sorting here: memory is `RANGE_BYTES` and its sort, whatever the
number of records, up to `MOST_RANGES` of them (8 GB of keys, 38 million documents); past that ranges grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from slm.corpus.words import Hashes

RANGE_BYTES = 16 << 20
MOST_RANGES = 512
CROWD = 32
"""In a bucket of more documents than this, the first so many are compared with all, and others not with each other.

Buckets that large come from boilerplate, where the first document stands for the others; without a limit, a
million copies of one page would make 5 x 10**11 pairs. It costs recall only there, and precision nowhere.
"""


class Ranges:
    """Rows of `width` uint64, spread over files by where their key lies between `borders`."""

    def __init__(self, folder: Path, name: str, width: int, borders: Hashes) -> None:
        self.folder, self.name, self.width, self.borders = folder, name, width, borders
        self.rows = 0
        self._paths = [folder / f"{name}-{number:03d}" for number in range(len(borders) + 1)]
        self._files: list[BinaryIO] = []

    def __enter__(self) -> Ranges:
        self._files = [path.open("wb", buffering=1 << 13) for path in self._paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def add(self, keys_N: Hashes, rows_NW: Hashes) -> None:
        """Append rows, each to the file of its key."""
        numbers_N = np.searchsorted(self.borders, keys_N, side="right")
        order_N = np.argsort(numbers_N, kind="stable")
        ends = np.searchsorted(numbers_N[order_N], np.arange(len(self._files)), side="right")
        begin = 0
        for file, end in zip(self._files, ends.tolist(), strict=True):
            if end > begin:
                file.write(rows_NW[order_N[begin:end]].tobytes())
            begin = end
        self.rows += len(keys_N)

    def __iter__(self) -> Iterator[Hashes]:
        """The rows (N, width) of each range, ranges in the order of keys, rows in the order added."""
        for path in self._paths:
            yield np.fromfile(path, np.uint64).reshape(-1, self.width)

    def delete(self) -> None:
        """Remove the files."""
        for path in self._paths:
            path.unlink()


def even_borders(rows: int, width: int) -> Hashes:
    """Borders for `rows` rows of keys that are spread evenly over 64 bits, as hashes are."""
    ranges = _num_ranges(rows, width)
    return np.array([(number << 64) // ranges for number in range(1, ranges)], np.uint64)


def sampled_borders(sample: Hashes, rows: int, width: int) -> Hashes:
    """Borders that cut a sample of the keys into equal parts."""
    ranges = min(_num_ranges(rows, width), max(1, len(sample)))
    ordered = np.sort(sample)
    return np.unique(ordered[[number * len(ordered) // ranges for number in range(1, ranges)]])


def _num_ranges(rows: int, width: int) -> int:
    return min(MOST_RANGES, max(1, -(-rows * width * 8 // RANGE_BYTES)))


def pairs_in_range(rows_N2: Hashes, order: Hashes, crowd: int = CROWD) -> tuple[Iterator[Hashes], int]:
    """Pairs (later, earlier) of the documents that share a key, in portions, and how many keys were crowded.

    Rows are (key, document number); `order` gives a document's order key by its number. The first `crowd` of a
    key's documents are each paired with all behind them.
    """
    numbers = rows_N2[:, 1]
    keys, documents = shared_keys(rows_N2[:, :1], numbers, (numbers, order[numbers.astype(np.int64)]))
    begins_N, sizes_N = groups(keys)
    place_N = np.arange(len(keys)) - begins_N

    def portions() -> Iterator[Hashes]:
        for anchor in range(min(crowd, int(sizes_N.max(initial=1)) - 1)):
            behind = np.flatnonzero(place_N > anchor)
            yield np.stack([documents[behind], documents[begins_N[behind] + anchor]], axis=1)

    return portions(), int(((sizes_N > crowd) & (place_N == 0)).sum())


def copies_in_range(rows_N3: Hashes, order: Hashes) -> Hashes:
    """Pairs (copy, first in order) of the documents that share a digest; rows are (digest, digest, number)."""
    numbers = rows_N3[:, 2]
    keys, documents = shared_keys(rows_N3[:, :2], numbers, (numbers, order[numbers.astype(np.int64)]))
    begins_N, _ = groups(keys)
    again = np.flatnonzero(np.arange(len(keys)) != begins_N)
    return np.stack([documents[again], documents[begins_N[again]]], axis=1)


def shared_keys(keys_NK: Hashes, values_N: Hashes, by: tuple[Hashes, ...]) -> tuple[Hashes, Hashes]:
    """Keys that occur more than once and their values, sorted by key, then by the last of `by`, and so on back."""
    by_key = np.lexsort(keys_NK.T)
    ordered = keys_NK[by_key]
    same = (ordered[1:] == ordered[:-1]).all(axis=1)
    shared = by_key[(np.append(same, False) | np.append(False, same))[: len(by_key)]]
    chosen = shared[np.lexsort((*(one[shared] for one in by), *keys_NK[shared].T))]
    return keys_NK[chosen], values_N[chosen]


def groups(keys_NK: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each row of sorted keys, where its group of equals begins and how large the group is."""
    first = np.ones(len(keys_NK), np.bool_)
    first[1:] = (keys_NK[1:] != keys_NK[:-1]).any(axis=1)
    begins = np.flatnonzero(first)
    sizes = np.diff(np.append(begins, len(keys_NK)))
    return np.repeat(begins, sizes), np.repeat(sizes, sizes)
