"""Which piece of which document goes into which row: a pure function of lengths.

In: the lengths of documents in tokens, the row length. Out: pieces, row by row. A document that fits in
a row is never cut (`best_fit`). A longer one fills whole rows and its tail is packed like a document;
each further piece begins with the last token of the one before, so that every token but a document's
first is a target exactly once. Nothing is dropped.

`best_fit` puts the longest piece first into the fullest row that still has room (best-fit decreasing).
Rows are found by their room through one big integer, whose bit c says that some row has room for c
tokens: shift, lowest bit, done. Cost: MEASURED. `concat`, the usual baseline, lays documents end to end
and cuts at each row's end.

Shapes: D documents, P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Method = Literal["best_fit", "concat"]


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
    order = np.argsort(row_P, kind="stable")
    return Packing(document_P[order], start_P[order], length_P[order], row_P[order], num_rows)


def _pieces(lengths_D: Integers, seq_len: int) -> tuple[Integers, Integers, Integers]:
    """Documents cut to rows; pieces of one document overlap by one token."""
    stride = seq_len - 1
    counts_D = np.maximum(1, -(-(lengths_D - 1) // stride))
    document_P = np.repeat(np.arange(len(lengths_D), dtype=np.int64), counts_D)
    first_P = np.repeat(np.cumsum(counts_D) - counts_D, counts_D)
    start_P = (np.arange(len(document_P), dtype=np.int64) - first_P) * stride
    return document_P, start_P, np.minimum(seq_len, lengths_D[document_P] - start_P)


def _best_fit(length_P: Integers, seq_len: int) -> tuple[Integers, int]:
    order = np.argsort(-length_P, kind="stable")
    rows_by_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
    bit = [1 << room for room in range(seq_len + 1)]
    rooms = num_rows = 0
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
    row_P = np.empty(len(length_P), dtype=np.int64)
    row_P[order] = rows
    return row_P, num_rows


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
