"""Which piece of which document goes into which row: a pure function of lengths.

In: the lengths of documents in tokens, the row length. Out: pieces, row by row. A document that fits in
a row is never cut (`best_fit`). A longer one fills whole rows and its tail is packed like a document;
each further piece begins with the last token of the one before, so that every token but a document's
first is a target exactly once. Nothing is dropped.

`best_fit` puts the longest piece first into the fullest row that still has room (best-fit decreasing).
Rows are found by their room through one big integer, whose bit c says that some row has room for c
tokens: shift, lowest bit, done. Where too many tails are longer than half a row, the emptiest rows are
then dissolved into the gaps of others by cutting tails once more; without that, 10,000 documents of 813
tokens on average left 0.25 % of 256-token rows empty, with it 0.01 % (0.02 % at 2,048). Cost: 1.0 to
1.8 million documents a second at 2,048 tokens. `concat`, the usual baseline, lays documents end to end
and cuts at each row's end: no more padding, but at 2,048 it breaks 29 % of the documents that would fit.

Shapes: D documents, P pieces.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Method = Literal["best_fit", "concat"]

SMALLEST_CUT = 16
"""Gaps below a sixteenth of a row are left as padding rather than filled with slivers of a document."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Pieces in the order in which they lie in rows: tokens `start`..`start + length` of `document`."""

    document_P: Integers
    start_P: Integers
    length_P: Integers
    row_P: Integers
    num_rows: int


def pack(lengths_D: Integers, seq_len: int, method: Method) -> Packing:
    """Pack documents of these lengths (each at least 1) into rows of `seq_len` (at least 2)."""
    if method == "concat":
        return _concat(lengths_D, seq_len)
    document_P, start_P, length_P = _pieces(lengths_D, seq_len)
    row_P, num_rows = _best_fit(length_P, seq_len)
    return _ordered(*_fill_gaps(document_P, start_P, length_P, row_P, num_rows, seq_len))


def _pieces(lengths_D: Integers, seq_len: int) -> tuple[Integers, Integers, Integers]:
    """Documents cut to rows; pieces of one document overlap by one token."""
    stride = seq_len - 1
    counts_D = np.maximum(1, -(-(lengths_D - 1) // stride))
    document_P = np.repeat(np.arange(len(lengths_D), dtype=np.int64), counts_D)
    first_P = np.repeat(np.cumsum(counts_D) - counts_D, counts_D)
    start_P = (np.arange(len(document_P), dtype=np.int64) - first_P) * stride
    return document_P, start_P, np.minimum(seq_len, lengths_D[document_P] - start_P)


def _best_fit(length_P: Integers, seq_len: int) -> tuple[Integers, int]:
    """The row of each piece, and how many rows there are; pieces that fill a row need no search."""
    row_P = np.empty(len(length_P), dtype=np.int64)
    full = length_P == seq_len
    num_rows = int(full.sum())
    row_P[full] = np.arange(num_rows)
    order = np.flatnonzero(~full)
    order = order[np.argsort(-length_P[order], kind="stable")]
    rows_by_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
    bit = [1 << room for room in range(seq_len + 1)]
    rooms = 0
    rows: list[int] = []
    for length in length_P[order].tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            stack = rows_by_room[room]
            row = stack.pop()
            if not stack:
                rooms ^= bit[room]
            room -= length
        else:
            row, room = num_rows, seq_len - length
            num_rows += 1
        rows.append(row)
        if room:
            rows_by_room[room].append(row)
            rooms |= bit[room]
    row_P[order] = rows
    return row_P, num_rows


def _fill_gaps(
    document_P: Integers, start_P: Integers, length_P: Integers, row_P: Integers, num_rows: int, seq_len: int
) -> tuple[Integers, Integers, Integers, Integers]:
    """Dissolve the emptiest rows into the gaps of others, cutting only documents that are cut already."""
    gap_R = seq_len - np.bincount(row_P, weights=length_P, minlength=num_rows).astype(np.int64)
    is_cut_P = (np.bincount(document_P) > 1)[document_P]
    whole_R = np.bincount(row_P, weights=~is_cut_P, minlength=num_rows) > 0
    smallest = max(2, seq_len // SMALLEST_CUT)
    loose_P = np.flatnonzero(gap_R[row_P] >= smallest)
    pieces_of: dict[int, list[tuple[int, int, int]]] = {}
    loose = (column[loose_P].tolist() for column in (row_P, document_P, start_P, length_P))
    for row, document, start, length in zip(*loose, strict=True):
        pieces_of.setdefault(row, []).append((document, start, length))
    heap = [(-int(gap_R[row]), row) for row in pieces_of]
    heapq.heapify(heap)
    set_aside: list[tuple[int, int]] = []
    while heap:
        entry = heapq.heappop(heap)
        if whole_R[entry[1]]:
            set_aside.append(entry)
            continue
        gaps = [*heap, *set_aside]
        heapq.heapify(gaps)
        moved = _pour(pieces_of[entry[1]], gaps, smallest)
        if moved is None:
            break
        del pieces_of[entry[1]]
        for row, piece in moved:
            pieces_of[row].append(piece)
        heap, set_aside = gaps, []
    kept = np.ones(len(row_P), dtype=bool)
    kept[loose_P] = False
    poured = [(*piece, row) for row, pieces in pieces_of.items() for piece in pieces]
    added = np.array(poured, dtype=np.int64).reshape(-1, 4)
    columns = (document_P, start_P, length_P, row_P)
    joined = [np.concatenate([column[kept], added[:, number]]) for number, column in enumerate(columns)]
    return joined[0], joined[1], joined[2], joined[3]


def _pour(
    pieces: list[tuple[int, int, int]], gaps: list[tuple[int, int]], smallest: int
) -> list[tuple[int, tuple[int, int, int]]] | None:
    """Cut `pieces` into the largest of `gaps` (a heap, changed); None where they do not suffice."""
    moved: list[tuple[int, tuple[int, int, int]]] = []
    for document, first, total in pieces:
        start, left = first, total
        while left:
            if not gaps:
                return None
            negative, row = heapq.heappop(gaps)
            length = min(-negative, left)
            moved.append((row, (document, start, length)))
            if -negative - length >= smallest:
                heapq.heappush(gaps, (negative + length, row))
            start, left = start + length - 1, left - length + 1 if left > length else 0
    return moved


def _ordered(document_P: Integers, start_P: Integers, length_P: Integers, row_P: Integers) -> Packing:
    """Pieces sorted by row, the rows renumbered without holes."""
    order = np.argsort(row_P, kind="stable")
    distinct, row_P = np.unique(row_P[order], return_inverse=True)
    return Packing(document_P[order], start_P[order], length_P[order], row_P.astype(np.int64), len(distinct))


def _concat(lengths_D: Integers, seq_len: int) -> Packing:
    documents: list[int] = []
    starts: list[int] = []
    lengths: list[int] = []
    rows: list[int] = []
    row, room = 0, seq_len
    for document, total in enumerate(lengths_D.tolist()):
        start = 0
        while True:
            if room < min(2, total):  # a piece of one token would hold no target
                row, room = row + 1, seq_len
            length = min(room, total - start)
            documents.append(document)
            starts.append(start)
            lengths.append(length)
            rows.append(row)
            room -= length
            if start + length == total:
                break
            start += length - 1
    num_rows = row + 1 if rows else 0
    columns = (np.array(column, dtype=np.int64) for column in (documents, starts, lengths, rows))
    document_P, start_P, length_P, row_P = columns
    return Packing(document_P, start_P, length_P, row_P, num_rows)
